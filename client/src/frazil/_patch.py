"""Makes `LazyFrame.remote` Frazil's."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import polars as pl

from frazil._remote import LazyFrameRemote
from frazil._submit import Labels, OnFailure, PlanTypePreference, ScalingMode, run_options
from frazil.errors import UnsupportedArgument

if TYPE_CHECKING:
    from datetime import timedelta

    from frazil._wire import EngineName
    from frazil.context import ComputeContext

# What Polars' own method does not take.
_FRAZIL_OWN = ("seed", "priority", "timeout", "name", "labels", "on_failure")


def remote(
    lf: pl.LazyFrame,
    context: ComputeContext | None = None,
    plan_type: PlanTypePreference = "dot",
    *,
    n_retries: int | None = None,
    engine: EngineName = "auto",
    scaling_mode: ScalingMode = "auto",
    seed: int | None = None,
    priority: int | None = None,
    timeout: float | timedelta | None = None,
    name: str | None = None,
    labels: Labels | None = None,
    on_failure: OnFailure = "continue",
) -> LazyFrameRemote:
    """Say where a query shall run. ``lf.remote(...)`` is the same, once `frazil` is imported.

    Parameters
    ----------
    lf
        The query.
    context
        The machines. Default: what `set_compute_context` set, or the workspace's default.
    plan_type
        Taken for the sake of Polars' own signature; no plan is rendered yet.
    n_retries
        How often an attempt that failed without the query's fault (a lost machine, say) is repeated. Default: 3.
    engine
        Polars' engine: ``"auto"``, ``"streaming"``, ``"in-memory"`` or ``"gpu"``.
    scaling_mode
        ``"auto"``, ``"single-node"`` or ``"distributed"``.
    seed
        Seed of the query's randomness.
    priority
        From 0 to 100; higher runs first. Default: 50.
    timeout
        Limit of one attempt, in seconds or as a timedelta. Default: 24 hours.
    name
        A name, shown in lists and logs.
    labels
        A mapping, or one or several labels such as ``"nightly"`` or ``"team=risk"``.
    on_failure
        For partitioned queries: what the others do when one fails, ``"continue"`` or ``"cancel"``.

    Returns
    -------
    LazyFrameRemote
        The query with its place. Nothing runs yet.

    Raises
    ------
    UnsupportedArgument
        An argument is not of those above.

    Examples
    --------
    >>> lf.remote(pc.ComputeContext(cpus=16, memory=64), engine="streaming").write_parquet("s3://dst/")
    """
    options = run_options(
        context=context,
        plan_type=plan_type,
        n_retries=n_retries,
        engine=engine,
        scaling_mode=scaling_mode,
        seed=seed,
        priority=priority,
        timeout=timeout,
        name=name,
        labels=labels,
        on_failure=on_failure,
    )
    return LazyFrameRemote(lf, options)


def install() -> None:
    """Puts `remote` on `LazyFrame`, once. Polars' own method stays in use for contexts of `polars_cloud`."""
    original = pl.LazyFrame.remote
    if getattr(original, "_is_frazil", False):
        return

    @functools.wraps(remote)
    def frazil_remote(self: pl.LazyFrame, context: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not _is_polars_cloud(context):
            return remote(self, context, *args, **kwargs)
        foreign = [name for name in _FRAZIL_OWN if name in kwargs]
        if foreign:
            raise UnsupportedArgument(
                f"{', '.join(foreign)} can be used with a frazil.ComputeContext only, and this is one of polars_cloud"
            )
        return original(self, context, *args, **kwargs)

    frazil_remote._is_frazil = True  # type: ignore[attr-defined]
    frazil_remote.__name__ = "remote"
    frazil_remote.__qualname__ = "LazyFrame.remote"
    pl.LazyFrame.remote = frazil_remote  # type: ignore[method-assign]


def _is_polars_cloud(context: Any) -> bool:
    return any(kind.__module__.split(".", 1)[0] == "polars_cloud" for kind in type(context).__mro__)
