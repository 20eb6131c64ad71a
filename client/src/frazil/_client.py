"""The workspace that this process talks to."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, cast

from frazil._config import Settings, checked_settings, load_settings, write_settings
from frazil._http import Transport, quote_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from frazil._wire import Job, Me, TaskResult, WireCluster, WireFailureGroup, WireLogLine


class Client:
    """The API's addresses as functions."""

    def __init__(self, settings: Settings) -> None:
        self.transport = Transport(settings)
        self._me: Me | None = None

    def __reduce__(self) -> tuple[Callable[[], Client], tuple[()]]:
        # Handles and errors can be pickled. The token stays here: the reader's own settings count there.
        return current_client, ()

    def me(self) -> Me:
        """Workspace, user and defaults. Asked for once per process."""
        if self._me is None:
            self._me = self.transport.get("/v1/me")
        return cast("Me", self._me)

    def submit(self, spec: dict[str, Any], plan: dict[str, Any], *, wait_s: int = 0) -> Job:
        query = {"wait": wait_s} if wait_s else None
        return self.transport.post("/v1/jobs", {"spec": spec, "plan": plan}, query, wait_s=wait_s)

    def submit_lines(self, make_lines: Callable[[], Iterable[bytes]]) -> Job:
        return self.transport.post_lines("/v1/jobs", make_lines)

    def job(self, job_id: str) -> Job:
        return self.transport.get(f"/v1/jobs/{quote_id(job_id)}")

    def wait(self, job_id: str, *, timeout_s: float, revision: int | None, within_s: float | None = None) -> Job:
        """The job, once it has ended, or once its revision is above `revision` (if given), or after `timeout_s`.

        Raises `OutOfTime` when nothing is heard for `within_s`.
        """
        query = {"timeout": round(timeout_s, 3), "revision": revision}
        return self.transport.get(f"/v1/jobs/{quote_id(job_id)}/wait", query, wait_s=timeout_s, within_s=within_s)

    def jobs_page(self, query: dict[str, Any]) -> dict[str, Any]:
        return self.transport.get("/v1/jobs", query)

    def results(self, job_id: str, *, page_size: int) -> Iterator[TaskResult]:
        return self._pages(f"/v1/jobs/{quote_id(job_id)}/results", page_size)

    def failures(self, job_id: str) -> list[WireFailureGroup]:
        return self.transport.get(f"/v1/jobs/{quote_id(job_id)}/failures")["groups"]

    def logs_page(
        self, job_id: str, *, cursor: str | None, limit: int, within_s: float | None = None
    ) -> tuple[list[WireLogLine], str | None]:
        query = {"cursor": cursor, "limit": limit}
        page = self.transport.get(f"/v1/jobs/{quote_id(job_id)}/logs", query, within_s=within_s)
        return page["items"], page["nextCursor"]

    def cancel(self, job_id: str) -> Job:
        return self.transport.post(f"/v1/jobs/{quote_id(job_id)}/cancel")

    def retry(self, job_id: str) -> Job:
        return self.transport.post(f"/v1/jobs/{quote_id(job_id)}/retry")

    def start_cluster(self, context: dict[str, Any], name: str | None) -> WireCluster:
        return self.transport.post("/v1/clusters", {"context": context, "name": name})

    def cluster(self, cluster_id: str) -> WireCluster:
        return self.transport.get(f"/v1/clusters/{quote_id(cluster_id)}")

    def wait_cluster(self, cluster_id: str, *, timeout_s: float, within_s: float | None = None) -> WireCluster:
        query = {"timeout": round(timeout_s, 3)}
        return self.transport.get(
            f"/v1/clusters/{quote_id(cluster_id)}/wait", query, wait_s=timeout_s, within_s=within_s
        )

    def stop_cluster(self, cluster_id: str) -> WireCluster:
        return self.transport.post(f"/v1/clusters/{quote_id(cluster_id)}/stop")

    def clusters(self, *, status: str | None, page_size: int) -> Iterator[WireCluster]:
        return self._pages("/v1/clusters", page_size, {"status": status})

    def _pages(self, path: str, page_size: int, query: dict[str, Any] | None = None) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self.transport.get(path, {**(query or {}), "limit": page_size, "cursor": cursor})
            yield from page["items"]
            # A cursor that does not move would never end.
            if page["nextCursor"] is None or page["nextCursor"] == cursor:
                return
            cursor = page["nextCursor"]


_lock = threading.Lock()
_clients: dict[Settings, Client] = {}


def _unlock() -> None:
    """In the child of a fork: another thread may have held the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def current_client() -> Client:
    """The client of the settings as they are now, so that a change of the environment counts at once."""
    settings = load_settings()
    client = _clients.get(settings)
    if client is None:
        with _lock:
            client = _clients.setdefault(settings, Client(settings))
    return client


def login(address: str, token: str) -> str:
    """Check an address and a token, and keep them in the config file for every later process of this user.

    Parameters
    ----------
    address
        Address of the server, such as ``https://frazil.example.com``.
    token
        A token of your workspace (``frz_...``).

    Returns
    -------
    str
        Name of the workspace.

    Raises
    ------
    Unauthenticated
        The server does not accept the token. Nothing was written.
    ServerUnreachable
        Nothing answers there. Nothing was written.

    Notes
    -----
    The file is ``$FRAZIL_CONFIG``, or ``~/.config/frazil/config.json``, readable by its owner only. The variables
    ``FRAZIL_ADDRESS`` and ``FRAZIL_TOKEN`` go before it.

    Examples
    --------
    >>> pc.login("https://frazil.example.com", "frz_...")
    'analytics'
    """
    settings = checked_settings(address, token)
    workspace = Client(settings).me()["workspace"]["name"]
    write_settings(settings)
    return workspace
