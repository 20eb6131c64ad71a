"""`LazyFrame.remote`: a query together with where and how to run it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from frazil._outputs import Sink, make_sink
from frazil._plans import flat_keys, partition_payload
from frazil._submit import (
    Labels,
    RunOptions,
    labels_dict,
    submit,
    submit_and_wait,
    submit_partitioned,
)
from frazil._watch import in_thread
from frazil.errors import NotAvailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from frazil._wire import Format, Mode
    from frazil.handles import InProgressQueriesRemote, InProgressQueryRemote
    from frazil.results import QueryResult

_KEPT = Sink("ipc")
"""Kept at the workspace's results location, in the format that holds every type as it was."""

_NOT_OFFERED = frozenset({"sink_iceberg", "sink_delta", "sink_batches", "collect_batches", "explain", "with_lineage"})


class LazyFrameRemote:
    """A query that will run remotely, as `LazyFrame.remote` returns it. Nothing runs until a method fires it.

    Examples
    --------
    >>> import polars as pl, frazil as pc
    >>> query = pl.scan_parquet("s3://my-dataset/").group_by("a").len()
    >>> in_progress = query.remote(pc.ComputeContext(cpus=16, memory=64)).write_parquet("s3://my-dst/")
    >>> result = in_progress.await_result()
    """

    def __init__(self, lf: pl.LazyFrame, options: RunOptions) -> None:
        self._lf = lf
        self._options = options

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._options.context or 'the default context'}>"

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_OFFERED:
            raise AttributeError(f"Frazil does not offer {name}() yet")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _with(self, **changes: Any) -> LazyFrameRemote:
        return LazyFrameRemote(self._lf, replace(self._options, **changes))

    def labels(self, labels: Labels) -> LazyFrameRemote:
        """Add labels, by which jobs can be listed.

        Parameters
        ----------
        labels
            A mapping, or one or several labels such as ``"nightly"`` or ``"team=risk"``.

        Examples
        --------
        >>> lf.remote(ctx).labels({"team": "risk"}).execute()
        """
        return self._with(labels={**self._options.labels, **labels_dict(labels)})

    def distributed(self, **options: Any) -> LazyFrameRemote:
        """Let the query use several nodes of the cluster together.

        Installations that do not run distributed queries refuse it (`NotAvailable`) when it is fired.

        Examples
        --------
        >>> lf.remote(ctx).distributed().write_parquet("s3://dst/")
        """
        if options:
            raise NotAvailable(f"distributed() takes no options yet: {', '.join(options)}")
        return self._with(scaling="distributed")

    def single_node(self) -> LazyFrameRemote:
        """Run the query on one node, whatever the size of the cluster."""
        return self._with(scaling="single")

    def partition_by(
        self,
        by: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        *more: str | pl.Expr,
        max_keys: int | None = None,
        **named: pl.Expr,
    ) -> PartitionedRemote:
        """Run the query once for each distinct value of a key in its source data, each with a result of its own.

        Parameters
        ----------
        by, more
            Column names, or expressions over source columns, such as ``pl.col("at").dt.year().alias("year")``. Together
            they are one key.
        max_keys
            Refuse to run when there are more keys than this. Default: 10,000.
        named
            Further expressions, named.

        Examples
        --------
        >>> lf.remote(ctx).partition_by("day").write_parquet("s3://dst/")  # s3://dst/day=2024-01-01/..., and so on
        >>> lf.remote(ctx).partition_by(year=pl.col("at").dt.year()).execute()
        """
        payload, carries_python = partition_payload([*flat_keys(by), *more], named, max_keys)
        return PartitionedRemote(
            self._lf, replace(self._options, partition_by=payload, partition_python=carries_python)
        )

    @overload
    def execute(self, *, blocking: Literal[False] = False) -> InProgressQueryRemote: ...
    @overload
    def execute(self, *, blocking: Literal[True]) -> QueryResult: ...
    def execute(self, *, blocking: bool = False) -> InProgressQueryRemote | QueryResult:
        """Run the query, and keep its result at the workspace's results location.

        Parameters
        ----------
        blocking
            Whether to wait for the result and return that, in one request, instead of a handle.

        Examples
        --------
        >>> in_progress = lf.remote(ctx).execute()
        >>> result = in_progress.await_result()
        """
        return self._run(self._lf, None) if blocking else submit(self._lf, self._options, _KEPT)

    def collect(self, *, logs: bool | None = None) -> pl.DataFrame:
        """Run the query, wait, and load its whole result into memory here.

        Parameters
        ----------
        logs
            As in `InProgressQueryRemote.await_result`.

        Raises
        ------
        QueryFailed
            The query failed; see `InProgressQueryRemote.await_result`.

        Examples
        --------
        >>> df = lf.remote(ctx).collect()
        """
        return self._run(self._lf, logs).collect()

    async def collect_async(self, *, logs: bool | None = None) -> pl.DataFrame:
        """`collect` for async code; the event loop goes on meanwhile.

        Examples
        --------
        >>> df = await lf.remote(ctx).collect_async()
        """
        handle = await in_thread(submit, self._lf, self._options, _KEPT)
        result = await handle.await_result_async(logs=logs)
        return await in_thread(result.collect)

    def show(self, n: int = 10, *, logs: bool | None = None) -> pl.DataFrame:
        """Run the query for its first rows, wait, and return them.

        Parameters
        ----------
        n
            Number of rows.
        logs
            As in `InProgressQueryRemote.await_result`.

        Examples
        --------
        >>> print(lf.remote(ctx).show(5))
        """
        return self._run(self._lf.head(n), logs).collect()

    def await_and_scan(self) -> pl.LazyFrame:
        """Run the query, wait, and return a LazyFrame over its result.

        Examples
        --------
        >>> lf.remote(ctx).await_and_scan().filter(pl.col("a") > 1).collect()
        """
        return self._run(self._lf, None).lazy()

    def write_parquet(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueryRemote:
        """Run the query, and write its result as Parquet.

        Parameters
        ----------
        dst
            Path or URL: a file if it ends in ``.parquet``, otherwise a directory. Relative paths are this machine's.
            Default: the workspace's results location.
        mode
            What to do when the destination holds data: ``"error"`` refuses, ``"overwrite"`` replaces it in one step,
            ``"append"`` adds files.
        storage_options
            Credentials and settings for the destination, as Polars takes them. Kept encrypted. Default: the
            machine's own.
        options
            Polars' own arguments of ``sink_parquet``, such as ``compression="snappy"``.

        Returns
        -------
        InProgressQueryRemote
            The handle; the query runs already.

        Raises
        ------
        UnsupportedArgument
            An argument can't travel to another machine, such as a Python credential provider.

        Examples
        --------
        >>> in_progress = lf.remote(ctx).write_parquet("s3://dst/", mode="overwrite")
        """
        return self._write("parquet", dst, mode, storage_options, options)

    def write_csv(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueryRemote:
        """Run the query, and write its result as CSV. Parameters as in `write_parquet`.

        Examples
        --------
        >>> lf.remote(ctx).write_csv("s3://dst/report.csv", separator=";")
        """
        return self._write("csv", dst, mode, storage_options, options)

    def write_ipc(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueryRemote:
        """Run the query, and write its result as Arrow IPC. Parameters as in `write_parquet`.

        Examples
        --------
        >>> lf.remote(ctx).write_ipc("s3://dst/", compression="zstd")
        """
        return self._write("ipc", dst, mode, storage_options, options)

    def write_ndjson(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueryRemote:
        """Run the query, and write its result as NDJSON. Parameters as in `write_parquet`.

        Examples
        --------
        >>> lf.remote(ctx).write_ndjson("s3://dst/")
        """
        return self._write("ndjson", dst, mode, storage_options, options)

    sink_parquet = write_parquet
    sink_csv = write_csv
    sink_ipc = write_ipc
    sink_ndjson = write_ndjson

    def _write(
        self,
        format: Format,
        dst: str | Path | None,
        mode: Mode,
        storage_options: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> InProgressQueryRemote:
        return submit(self._lf, self._options, make_sink(format, dst, mode, storage_options, options))

    def _run(self, lf: pl.LazyFrame, logs: bool | None) -> QueryResult:
        return submit_and_wait(lf, self._options, _KEPT, logs).await_result(logs=logs)


class PartitionedRemote:
    """A query that will run once for each key, as `LazyFrameRemote.partition_by` returns it.

    Examples
    --------
    >>> results = lf.remote(ctx).partition_by("day").write_parquet("s3://dst/").await_result()
    >>> results["2024-01-01"].head
    """

    def __init__(self, lf: pl.LazyFrame, options: RunOptions) -> None:
        self._lf = lf
        self._options = options

    def __repr__(self) -> str:
        names = [key["name"] for key in (self._options.partition_by or {})["keys"]]
        return f"<PartitionedRemote by {', '.join(names)} on {self._options.context or 'the default context'}>"

    def labels(self, labels: Labels) -> PartitionedRemote:
        """Add labels. As `LazyFrameRemote.labels`."""
        merged = {**self._options.labels, **labels_dict(labels)}
        return PartitionedRemote(self._lf, replace(self._options, labels=merged))

    def execute(self) -> InProgressQueriesRemote:
        """Run the query for each key, and keep the results at the workspace's results location.

        Examples
        --------
        >>> results = lf.remote(ctx).partition_by("day").execute().await_result()
        """
        return submit_partitioned(self._lf, self._options, _KEPT)

    def write_parquet(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueriesRemote:
        """Run the query for each key, and write the results as Parquet: ``dst/day=2024-01-01/...``.

        Parameters as in `LazyFrameRemote.write_parquet`; `mode` is about each key's directory.

        Examples
        --------
        >>> lf.remote(ctx).partition_by("day").write_parquet("s3://dst/", mode="overwrite")
        """
        return self._write("parquet", dst, mode, storage_options, options)

    def write_csv(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueriesRemote:
        """Run the query for each key, and write the results as CSV. As `write_parquet`."""
        return self._write("csv", dst, mode, storage_options, options)

    def write_ipc(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueriesRemote:
        """Run the query for each key, and write the results as Arrow IPC. As `write_parquet`."""
        return self._write("ipc", dst, mode, storage_options, options)

    def write_ndjson(
        self,
        dst: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InProgressQueriesRemote:
        """Run the query for each key, and write the results as NDJSON. As `write_parquet`."""
        return self._write("ndjson", dst, mode, storage_options, options)

    sink_parquet = write_parquet
    sink_csv = write_csv
    sink_ipc = write_ipc
    sink_ndjson = write_ndjson

    def _write(
        self,
        format: Format,
        dst: str | Path | None,
        mode: Mode,
        storage_options: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> InProgressQueriesRemote:
        return submit_partitioned(self._lf, self._options, make_sink(format, dst, mode, storage_options, options))
