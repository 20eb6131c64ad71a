"""The machines that a query runs on."""

from __future__ import annotations

import builtins
import contextlib
import time
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from frazil._client import Client, current_client
from frazil._http import LATE_SECONDS_MAX, OutOfTime
from frazil._remote_errors import cluster_error
from frazil._wire import PAGE_SIZE_MAX
from frazil.errors import AwaitTimeout, FrazilError, UnsupportedArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from frazil._wire import ClusterStatus, WireCluster

_POLL_SECONDS = 20.0


@dataclass
class _Cluster:
    """The cluster that a context has started: its id, and the server that knows it."""

    id: str
    client: Client


@dataclass(eq=False, repr=False)
class ComputeContext:
    """Machines by shape. Plain data until `start`: two contexts of the same shape share a warm cluster.

    Parameters
    ----------
    cpus
        Cores of each node, which are also its task slots. Default: the workspace's.
    memory
        Memory of each node in GiB. Default: the workspace's.
    cluster_size
        Number of nodes.
    gpus
        GPUs of each node.
    idle_timeout
        How long a cluster without work is kept, in seconds or as a timedelta. Default: the workspace's.
    packages
        Requirements (PEP 508) that user functions need beside Polars, such as ``["numpy>=2"]``.
    env
        Environment variables of the engine. They are kept encrypted.
    cloud
        Which cloud to use, such as ``"local"``. Default: the workspace's.
    name
        A name for the cluster, shown in lists.

    Examples
    --------
    >>> lf.remote(pc.ComputeContext(cpus=16, memory=64)).write_parquet("s3://dst/")

    Machines that are there before the first query, and gone after the last:

    >>> with pc.ComputeContext(cpus=4, memory=16) as ctx:
    ...     lf.remote(ctx).collect()
    """

    cpus: int | None = None
    memory: float | None = None
    cluster_size: int = 1
    gpus: int = 0
    idle_timeout: float | timedelta | None = None
    packages: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cloud: str | None = None
    name: str | None = None
    _cluster: _Cluster | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("cpus", "cluster_size", "gpus"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise UnsupportedArgument(f"ComputeContext: {name} must be a whole number, not {value!r}")
        if isinstance(self.packages, str):
            raise UnsupportedArgument("ComputeContext: packages is a list of requirements, not one string")

    def __repr__(self) -> str:
        given = [f"{it.name}={getattr(self, it.name)!r}" for it in fields(self) if it.repr and self._differs(it.name)]
        return f"ComputeContext({', '.join(given)})" + (f" started as {self.id}" if self.id else "")

    def _differs(self, name: str) -> bool:
        return getattr(self, name) != getattr(_PLAIN, name)

    @property
    def id(self) -> str | None:
        """Id of the cluster (``cl_...``) while it is started; None before `start` and after `stop`."""
        return None if self._cluster is None else self._cluster.id

    @property
    def status(self) -> ClusterStatus | None:
        """What the cluster does right now, asked from the server; None when the context was not started."""
        if self._cluster is None:
            return None
        return self._cluster.client.cluster(self._cluster.id)["status"]

    def start(self, *, wait: bool = True, timeout: float | None = None) -> ComputeContext:
        """Start the machines now. Until `stop`, queries with this context run on them and nowhere else.

        Parameters
        ----------
        wait
            Whether to return only when the machines are ready.
        timeout
            With `wait`: seconds after which to stop waiting (the machines go on starting).

        Returns
        -------
        ComputeContext
            This context.

        Raises
        ------
        ClusterFailed
            The machines could not be started; the message says why.
        NotAvailable
            The installation does not offer such machines.
        AwaitTimeout
            They were not ready within `timeout`.

        Examples
        --------
        >>> ctx = pc.ComputeContext(cpus=4, memory=16).start()
        >>> lf.remote(ctx).collect()
        >>> ctx.stop()
        """
        if self._cluster is None:
            client = current_client()
            payload = context_payload(self, client) or client.me()["defaultContext"]
            self._cluster = _Cluster(client.start_cluster(payload, self.name)["id"], client)
        if wait:
            self._wait_ready(timeout)
        return self

    def stop(self) -> None:
        """Stop the machines. Queries that still run on them are interrupted. Does nothing when not started."""
        if self._cluster is None:
            return
        self._cluster.client.stop_cluster(self._cluster.id)
        self._cluster = None

    def __enter__(self) -> ComputeContext:
        try:
            return self.start()
        except BaseException:
            # There is no `__exit__` then; the machines must not stay up for that.
            with contextlib.suppress(FrazilError):
                self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def list(cls, status: ClusterStatus | None = None) -> builtins.list[ComputeContext]:
        """The workspace's clusters, newest first, each as a started context.

        Parameters
        ----------
        status
            Only those that are in this status.

        Examples
        --------
        >>> for ctx in pc.ComputeContext.list("ready"):
        ...     print(ctx.id, ctx.cpus, ctx.memory)
        """
        client = current_client()
        return [cls._from_wire(found, client) for found in client.clusters(status=status, page_size=PAGE_SIZE_MAX)]

    @classmethod
    def connect(cls, cluster_id: str) -> ComputeContext:
        """The context of a cluster that was started elsewhere, by its id.

        Raises
        ------
        NotFound
            There is no such cluster in this workspace.

        Examples
        --------
        >>> ctx = pc.ComputeContext.connect("cl_01k...")
        """
        client = current_client()
        return cls._from_wire(client.cluster(cluster_id), client)

    @classmethod
    def _from_wire(cls, cluster: WireCluster, client: Client) -> ComputeContext:
        shape = cluster["shape"]
        context = cls(
            cpus=shape["cpus"],
            memory=shape["memoryGiB"],
            cluster_size=shape["clusterSize"],
            gpus=shape["gpus"],
            idle_timeout=cluster["idleTimeoutSeconds"],
            cloud=shape["cloud"],
            name=cluster["name"],
        )
        context._cluster = _Cluster(cluster["id"], client)
        return context

    def _wait_ready(self, timeout: float | None) -> None:
        started = self._cluster
        assert started is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            within_s = None if deadline is None else left + LATE_SECONDS_MAX
            try:
                if left <= 0:
                    raise OutOfTime
                cluster = started.client.wait_cluster(started.id, timeout_s=min(_POLL_SECONDS, left), within_s=within_s)
            except OutOfTime as late:
                raise AwaitTimeout(
                    f"cluster {started.id} was not ready within {timeout or 0:g} s; it goes on starting"
                ) from late.__cause__
            if cluster["status"] == "ready":
                return
            if cluster["status"] in ("stopping", "terminated"):
                self._cluster = None
                raise cluster_error(cluster)


_PLAIN = ComputeContext()


def context_payload(context: ComputeContext, client: Client) -> dict[str, Any] | None:
    """The context as it travels; None when nothing was asked for, which means the workspace's default."""
    payload: dict[str, Any] = {}
    if context.cpus is not None:
        payload["cpus"] = context.cpus
    if context.memory is not None:
        payload["memoryGiB"] = context.memory
    if context.gpus:
        payload["gpus"] = context.gpus
    if context.cluster_size != 1:
        payload["clusterSize"] = context.cluster_size
    if context.cloud is not None:
        payload["cloud"] = context.cloud
    if context.packages:
        payload["packages"] = list(context.packages)
    if context.env:
        payload["env"] = dict(context.env)
    if context.idle_timeout is not None:
        payload["idleTimeoutSeconds"] = _whole_seconds(context.idle_timeout)
    if not payload:
        return None
    if "cpus" not in payload or "memoryGiB" not in payload:
        # Only the shape: packages and variables of the default are not this context's.
        default = client.me()["defaultContext"]
        for name in ("cpus", "memoryGiB", "cloud"):
            payload.setdefault(name, default[name])
    return payload


def _whole_seconds(idle_timeout: float | timedelta) -> int:
    seconds = idle_timeout.total_seconds() if isinstance(idle_timeout, timedelta) else idle_timeout
    return max(1, round(seconds))


_default: ComputeContext | None = None


def set_compute_context(context: ComputeContext | None) -> None:
    """Set the context that `.remote()` and `spawn` use in this process when none is given.

    Parameters
    ----------
    context
        The context; None goes back to the workspace's default.

    Examples
    --------
    >>> pc.set_compute_context(pc.ComputeContext(cpus=16, memory=64))
    >>> lf.remote().collect()
    """
    global _default
    if context is not None and not isinstance(context, ComputeContext):
        raise UnsupportedArgument(f"expected a frazil.ComputeContext, got {type(context).__name__}")
    _default = context


def placement(context: ComputeContext | None, client: Client) -> dict[str, Any]:
    """`context` and `clusterId` of a spec."""
    context = context if context is not None else _default
    if context is None:
        return {}
    placed: dict[str, Any] = {}
    payload = context_payload(context, client)
    if payload is not None:
        placed["context"] = payload
    if context._cluster is not None:
        placed["clusterId"] = context._cluster.id
    return placed
