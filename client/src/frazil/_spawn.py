"""Queries fired by function: one, or many at once."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from frazil._outputs import Dst, Sink, resolve_sink
from frazil._plans import flat_keys, partition_payload
from frazil._submit import (
    Labels,
    OnFailure,
    PlanTypePreference,
    RunOptions,
    ScalingMode,
    run_options,
    submit,
    submit_and_wait,
    submit_many,
)
from frazil._watch import in_thread
from frazil.errors import UnsupportedArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timedelta

    import polars as pl

    from frazil._wire import EngineName, Format, Mode
    from frazil.context import ComputeContext
    from frazil.handles import InProgressQueriesRemote, InProgressQueryRemote
    from frazil.results import ManyResult, QueryResult


P = ParamSpec("P")
R = TypeVar("R")


def _taking(model: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Gives a function the parameters of another, for type checkers and for `help`."""

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        returned = inspect.signature(function).return_annotation
        function.__signature__ = inspect.signature(model).replace(return_annotation=returned)  # type: ignore[attr-defined]
        return function

    return decorate


def _checked_one(
    lf: pl.LazyFrame,
    *,
    dst: str | Path | Dst | None = None,
    context: ComputeContext | None = None,
    sink: Format | None = None,
    mode: Mode = "error",
    storage_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    engine: EngineName = "auto",
    plan_type: PlanTypePreference = "dot",
    scaling_mode: ScalingMode = "auto",
    n_retries: int | None = None,
    seed: int | None = None,
    priority: int | None = None,
    timeout: float | timedelta | None = None,
    name: str | None = None,
    labels: Labels | None = None,
) -> tuple[pl.LazyFrame, RunOptions, Sink]:
    checked = run_options(
        context=context,
        plan_type=plan_type,
        engine=engine,
        scaling_mode=scaling_mode,
        n_retries=n_retries,
        seed=seed,
        priority=priority,
        timeout=timeout,
        name=name,
        labels=labels,
    )
    return lf, checked, resolve_sink(dst, sink, mode, storage_options, options or {})


def _checked_many(
    lfs: Iterable[pl.LazyFrame],
    *,
    dst: str | Path | Dst | None = None,
    partition_by: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
    max_keys: int | None = None,
    context: ComputeContext | None = None,
    on_failure: OnFailure = "continue",
    sink: Format | None = None,
    mode: Mode = "error",
    storage_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    engine: EngineName = "auto",
    plan_type: PlanTypePreference = "dot",
    n_retries: int | None = None,
    seed: int | None = None,
    priority: int | None = None,
    timeout: float | timedelta | None = None,
    name: str | None = None,
    labels: Labels | None = None,
) -> tuple[list[pl.LazyFrame], RunOptions, Sink]:
    frames = list(lfs)
    if not frames:
        raise UnsupportedArgument("spawn_many needs at least one LazyFrame")
    checked = run_options(
        context=context,
        plan_type=plan_type,
        engine=engine,
        n_retries=n_retries,
        seed=seed,
        priority=priority,
        timeout=timeout,
        name=name,
        labels=labels,
        on_failure=on_failure,
    )
    keys = flat_keys(partition_by)
    if keys:
        payload, carries_python = partition_payload(keys, {}, max_keys)
        checked = replace(checked, partition_by=payload, partition_python=carries_python)
    return frames, checked, resolve_sink(dst, sink, mode, storage_options, options or {})


@_taking(_checked_one)
def spawn(*args: Any, **kwargs: Any) -> InProgressQueryRemote:
    """Fire one query, and return its handle at once.

    Parameters
    ----------
    lf
        The query.
    dst
        Path or URL, or one of `ParquetDst`, `CsvDst`, `IpcDst` and `NdjsonDst`. Default: the workspace's results
        location.
    context
        The machines. Default: what `set_compute_context` set, or the workspace's default.
    sink
        Format: ``"parquet"``, ``"csv"``, ``"ipc"`` or ``"ndjson"``. Default: what the destination's extension says, or
        parquet (without a destination: ipc).
    mode, storage_options
        As in `LazyFrameRemote.write_parquet`.
    options
        Polars' own arguments of that sink.
    engine, plan_type, scaling_mode, n_retries, seed, priority, timeout, name, labels
        As in `remote`.

    Examples
    --------
    >>> handle = pc.spawn(lf, dst="s3://dst/")
    """
    return submit(*_checked_one(*args, **kwargs))


@_taking(_checked_one)
def spawn_blocking(*args: Any, **kwargs: Any) -> QueryResult:
    """`spawn`, and wait for the result.

    Raises
    ------
    QueryFailed
        The query failed; see `InProgressQueryRemote.await_result`.

    Examples
    --------
    >>> result = pc.spawn_blocking(lf, dst="s3://dst/")
    """
    return submit_and_wait(*_checked_one(*args, **kwargs), logs=None).await_result()


@_taking(_checked_one)
async def spawn_async(*args: Any, **kwargs: Any) -> InProgressQueryRemote:
    """`spawn` for async code. The handle it gives can be awaited, too.

    Examples
    --------
    >>> result = await (await pc.spawn_async(lf, dst="s3://dst/"))
    """
    return await in_thread(submit, *_checked_one(*args, **kwargs))


@_taking(_checked_many)
def spawn_many(*args: Any, **kwargs: Any) -> InProgressQueriesRemote:
    """Fire many queries in one request, and return one handle for all of them at once.

    Identical queries travel once. Each query has a status, a result and retries of its own.

    Parameters
    ----------
    lfs
        The queries.
    dst
        Path or URL of a directory, or one of `ParquetDst`, `CsvDst`, `IpcDst` and `NdjsonDst`: results are written to
        ``dst/frame=0/...`` and so on. Default: the workspace's results location.
    partition_by, max_keys
        Run each query once for each key, too; as in `LazyFrameRemote.partition_by`.
    context
        The machines. Default: what `set_compute_context` set, or the workspace's default.
    on_failure
        What the others do when one fails: ``"continue"`` or ``"cancel"``.
    sink
        Format: ``"parquet"``, ``"csv"``, ``"ipc"`` or ``"ndjson"``. Default: parquet (without a destination: ipc).
    mode, storage_options
        As in `LazyFrameRemote.write_parquet`.
    options
        Polars' own arguments of that sink.
    engine, plan_type, n_retries, seed, priority, timeout, name, labels
        As in `remote`.

    Examples
    --------
    >>> results = pc.spawn_many(frames, partition_by="day", dst="s3://dst/").await_result()
    """
    return submit_many(*_checked_many(*args, **kwargs))


@_taking(_checked_many)
def spawn_many_blocking(*args: Any, **kwargs: Any) -> ManyResult:
    """`spawn_many`, and wait for all results.

    Raises
    ------
    QueriesFailed
        Some queries failed; see `InProgressQueriesRemote.await_result`.

    Examples
    --------
    >>> results = pc.spawn_many_blocking(frames, dst="s3://dst/")
    """
    return submit_many(*_checked_many(*args, **kwargs)).await_result()


@_taking(_checked_many)
async def spawn_many_async(*args: Any, **kwargs: Any) -> InProgressQueriesRemote:
    """`spawn_many` for async code. The handle it gives can be awaited, too.

    Examples
    --------
    >>> results = await (await pc.spawn_many_async(frames, dst="s3://dst/"))
    """
    return await in_thread(submit_many, *_checked_many(*args, **kwargs))
