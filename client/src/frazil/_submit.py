"""From a query and what was asked for it, to a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from frazil._client import Client, current_client
from frazil._plans import client_versions, has_python, plan_payload, serialise
from frazil._watch import first_wait_seconds
from frazil._wire import ATTEMPTS_MAX, EngineName
from frazil.context import ComputeContext, placement
from frazil.errors import UnsupportedArgument
from frazil.handles import InProgressQueriesRemote, InProgressQueryRemote

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from frazil._outputs import Sink
    from frazil._wire import Job

Labels = Mapping[str, str] | list[str] | tuple[str, ...] | str
ScalingMode = Literal["auto", "single-node", "distributed"]
PlanTypePreference = Literal["dot", "plain"]
OnFailure = Literal["continue", "cancel"]


@dataclass(frozen=True)
class RunOptions:
    """What applies to a query wherever its result goes. Checked when made."""

    context: ComputeContext | None = None
    engine: EngineName = "auto"
    scaling: Literal["auto", "single", "distributed"] = "auto"
    n_retries: int | None = None
    seed: int | None = None
    priority: int | None = None
    timeout: float | timedelta | None = None
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    on_failure: OnFailure = "continue"
    partition_by: dict[str, Any] | None = None
    partition_python: bool = False


def run_options(
    *,
    context: ComputeContext | None = None,
    plan_type: str = "dot",
    n_retries: int | None = None,
    engine: Any = "auto",
    scaling_mode: str = "auto",
    seed: int | None = None,
    priority: int | None = None,
    timeout: float | timedelta | None = None,
    name: str | None = None,
    labels: Labels | None = None,
    on_failure: OnFailure = "continue",
) -> RunOptions:
    """Checks the arguments of `remote`, `spawn` and `spawn_many`."""
    if context is not None and not isinstance(context, ComputeContext):
        raise UnsupportedArgument(f"context must be a frazil.ComputeContext, not {type(context).__name__}")
    if plan_type not in get_args(PlanTypePreference):
        raise UnsupportedArgument(f"unknown plan_type {plan_type!r}: one of dot, plain")
    scaling = {"auto": "auto", "single-node": "single", "single": "single", "distributed": "distributed"}.get(
        scaling_mode
    )
    if scaling is None:
        raise UnsupportedArgument(f"unknown scaling_mode {scaling_mode!r}: one of auto, single-node, distributed")
    if n_retries is not None and not 0 <= n_retries < ATTEMPTS_MAX:
        raise UnsupportedArgument(f"n_retries must be from 0 to {ATTEMPTS_MAX - 1}, not {n_retries}")
    if on_failure not in get_args(OnFailure):
        raise UnsupportedArgument(f"unknown on_failure {on_failure!r}: one of continue, cancel")
    return RunOptions(
        context=context,
        engine=_engine_name(engine),
        scaling=scaling,  # type: ignore[arg-type]
        n_retries=n_retries,
        seed=seed,
        priority=priority,
        timeout=timeout,
        name=name,
        labels=labels_dict(labels),
        on_failure=on_failure,
    )


def _engine_name(engine: Any) -> EngineName:
    if type(engine).__name__ == "GPUEngine":
        return "gpu"
    if engine not in get_args(EngineName):
        raise UnsupportedArgument(f"unknown engine {engine!r}: one of {', '.join(get_args(EngineName))}")
    return engine


def labels_dict(labels: Labels | None) -> dict[str, str]:
    """Labels as pairs. A bare label has an empty value; ``"team=risk"`` is a pair."""
    if labels is None:
        return {}
    if isinstance(labels, Mapping):
        found = {str(name): str(value) for name, value in labels.items()}
    else:
        pairs = (label.partition("=") for label in ([labels] if isinstance(labels, str) else labels))
        found = {name: value for name, _, value in pairs}
    for name in found:
        if ":" in name:
            raise ValueError(f"the label name {name!r} contains a colon, which stands between name and value")
    return found


def build_spec(client: Client, options: RunOptions, sink: Sink, *, carries_python: bool) -> dict[str, Any]:
    """`JobSpec`, with what was not asked for left out."""
    spec: dict[str, Any] = {
        "client": client_versions(carries_python=carries_python or options.partition_python),
        "output": sink.payload(),
        **placement(options.context, client),
    }
    given = {
        "name": options.name,
        "labels": options.labels or None,
        "engine": options.engine if options.engine != "auto" else None,
        "scaling": options.scaling if options.scaling != "auto" else None,
        "partitionBy": options.partition_by,
        "onFailure": options.on_failure if options.on_failure != "continue" else None,
        "attemptsMax": None if options.n_retries is None else options.n_retries + 1,
        "priority": options.priority,
        "timeoutMs": _milliseconds(options.timeout),
        "seed": options.seed,
    }
    return spec | {name: value for name, value in given.items() if value is not None}


def _milliseconds(timeout: float | timedelta | None) -> int | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return round(seconds * 1000)


def submit(lf: pl.LazyFrame, options: RunOptions, sink: Sink) -> InProgressQueryRemote:
    """Fires a single query, and returns at once."""
    client, job = _post(lf, options, sink, wait_s=0)
    return InProgressQueryRemote(client, job, sink)


def submit_and_wait(lf: pl.LazyFrame, options: RunOptions, sink: Sink, logs: bool | None) -> InProgressQueryRemote:
    """Fires a single query, and returns its handle after it has ended or some seconds have passed: one request."""
    client, job = _post(lf, options, sink, wait_s=first_wait_seconds(logs))
    return InProgressQueryRemote(client, job, sink)


def submit_partitioned(lf: pl.LazyFrame, options: RunOptions, sink: Sink) -> InProgressQueriesRemote:
    """Fires a partitioned query, and returns at once."""
    client, job = _post(lf, options, sink, wait_s=0)
    return InProgressQueriesRemote(client, job, sink)


def _post(lf: pl.LazyFrame, options: RunOptions, sink: Sink, *, wait_s: int) -> tuple[Client, Job]:
    plan = serialise(lf)
    client = current_client()
    spec = build_spec(client, options, sink, carries_python=has_python(plan))
    return client, client.submit(spec, plan_payload(plan), wait_s=wait_s)


def submit_many(lfs: Sequence[pl.LazyFrame], options: RunOptions, sink: Sink) -> InProgressQueriesRemote:
    """Fires many queries in one streamed request, and returns at once."""
    from frazil._lines import submission_lines

    client = current_client()
    make_lines = submission_lines(lfs, lambda python: build_spec(client, options, sink, carries_python=python))
    return InProgressQueriesRemote(client, client.submit_lines(make_lines), sink)
