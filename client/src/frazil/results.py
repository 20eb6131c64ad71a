"""Results: of one query, and of many."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING, Any

import polars as pl

from frazil._carriers import restore_arrays
from frazil._dtypes import parse_schema
from frazil._outputs import recorded_sink
from frazil._remote_errors import reissue_warnings
from frazil._scan import scan_locations, scanned_schema
from frazil._tables import table_html, table_text
from frazil._wire import TaskResult
from frazil.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polars._typing import ConcatMethod

    from frazil._client import Client
    from frazil._outputs import Sink
    from frazil._wire import Format, Job

HEAD_ROWS_MAX = 100
RESULTS_PAGE_SIZE = 200
INDEXED_HEAD_CHARS_MAX = 64 * 1024 * 1024
"""Heads kept in memory by an index over many results; those beyond are read from storage when asked for."""


class QueryResult:
    """The result of one query. The data stays where `locations` says.

    Examples
    --------
    >>> result = lf.remote().write_parquet("s3://dst/").await_result()
    >>> print(result)
    >>> result.lazy().filter(pl.col("a") > 1).collect()
    """

    def __init__(self, wire: TaskResult, job_id: str, sink: Sink | None) -> None:
        self._wire = wire
        self._sink = sink
        self._head: pl.DataFrame | None = None
        self._first_rows: pl.DataFrame | None = None
        self.job_id = job_id
        """The job that made it (``job_...``)."""

    @property
    def task_id(self) -> str:
        """Id of the task that made it (``task_...``)."""
        return self._wire["taskId"]

    @property
    def frame(self) -> int | None:
        """Position of its query in the list given to `spawn_many`; None otherwise."""
        return self._wire["frame"]

    @property
    def key(self) -> dict[str, str | None] | None:
        """Its key columns and values as text (None: the null key), when partitioned; None otherwise."""
        return self._wire["key"]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._wire["rows"]

    @property
    def n_rows_total(self) -> int:
        """Number of rows; the official client's name for `rows`."""
        return self._wire["rows"]

    @property
    def size_bytes(self) -> int | None:
        """Size of the written files, when it is known."""
        return self._wire["bytes"]

    @property
    def format(self) -> Format:
        """Format of the written files: ``parquet``, ``csv``, ``ipc`` or ``ndjson``."""
        return self._wire["format"]

    @property
    def locations(self) -> list[str]:
        """Absolute paths or URLs of the written files, in order. A small result without a destination has none: its
        `head` is all of it.
        """
        return list(self._wire["locations"])

    @property
    def schema(self) -> pl.Schema:
        """Names and types of the result's columns, as the query made them."""
        schema = self._schema()
        return self.lazy().collect_schema() if schema is None else schema

    @property
    def head(self) -> pl.DataFrame:
        """The first rows: at most 100, and at most 64 KiB of them. Read from `locations` if they did not come along."""
        head = self._shown_head()
        if head is None or (head.height == 0 and self.rows > 0):  # Not even the first row came along.
            head = self._first_rows = self.lazy().head(HEAD_ROWS_MAX).collect()
        return head

    def lazy(self) -> pl.LazyFrame:
        """The result as a LazyFrame that scans exactly the written files, or holds the head where that is all of it.

        Storage options that were given to the write are used for the scan, in the process that gave them.

        Examples
        --------
        >>> result.lazy().group_by("a").len().collect()
        """
        head = self._known_head()
        if not self._wire["locations"] and head is not None:
            return head.lazy()
        return scan_locations(
            self._wire["locations"],
            self._wire["format"],
            self._schema(),
            self.rows,
            self._sink.options if self._sink else {},
            self._sink.storage_options if self._sink else {},
        )

    def collect(self) -> pl.DataFrame:
        """The whole result in memory. Nothing is read when the head is all of it, and its types are those of `lazy`."""
        head = self._known_head()
        if head is not None and head.height == self.rows and self._scans_as(head.schema):
            return head.clone()
        return self.lazy().collect()

    def __repr__(self) -> str:
        head = self._shown_head()
        if head is None:
            return f"<QueryResult of {self.job_id}: {self.rows} rows, {len(self._wire['schema'])} columns>"
        return table_text(head, self.rows)

    def _repr_html_(self) -> str:
        head = self._shown_head()
        return f"<pre>{html.escape(repr(self))}</pre>" if head is None else table_html(head, self.rows)

    def _shown_head(self) -> pl.DataFrame | None:
        return self._known_head() if self._first_rows is None else self._first_rows

    def _known_head(self) -> pl.DataFrame | None:
        if self._head is None and self._wire["head"] is not None:
            self._head = pl.read_ipc_stream(base64.b64decode(self._wire["head"]))
            if any("Array(" in column["dtype"] for column in self._wire["schema"]):
                self._head = restore_arrays(self._head, parse_schema(self._wire["schema"]))
        return self._head

    def _scans_as(self, schema: pl.Schema) -> bool:
        options = self._sink.options if self._sink else {}
        return scanned_schema(self.format, schema, options) == schema

    def _schema(self) -> pl.Schema | None:
        head = self._known_head()
        # The head's types went through Arrow IPC and are exact.
        return head.schema if head is not None else parse_schema(self._wire["schema"])


class ManyResult:
    """The results of a partitioned or many job: those that succeeded. Pages are fetched as they are needed.

    Examples
    --------
    >>> results = pc.spawn_many(frames, dst="s3://dst/").await_result()
    >>> len(results), results[3].head
    >>> by_day = lf.remote().partition_by("day").write_parquet("s3://dst/").await_result()
    >>> by_day["2024-01-01"].lazy()
    >>> by_day.lazy(with_keys=True).collect()
    """

    def __init__(self, client: Client, job: Job, sink: Sink | None) -> None:
        self._client = client
        self._job = job
        self._sink = sink or recorded_sink(job)
        self._index: dict[tuple[int | None, _Key], QueryResult] | None = None
        self._warned: set[tuple[str, str]] = set()

    @property
    def job_id(self) -> str:
        """The job (``job_...``)."""
        return self._job["id"]

    @property
    def counts(self) -> dict[str, int]:
        """Number of queries: total, succeeded, failed, cancelled, and so on."""
        return dict(self._job["counts"])  # type: ignore[arg-type]

    @property
    def keys(self) -> list[str] | None:
        """Names of the key columns; None when the job was not partitioned."""
        return self._job["partitionBy"]

    def __len__(self) -> int:
        return self._job["counts"]["succeeded"]

    def __iter__(self) -> Iterator[QueryResult]:
        """The results in order of frame and key."""
        for wire in self._client.results(self._job["id"], page_size=RESULTS_PAGE_SIZE):
            reissue_warnings(wire["warnings"], self._warned)
            yield QueryResult(wire, self._job["id"], self._sink)

    def __getitem__(self, item: Any) -> QueryResult:
        """One result: by frame, by key, or by (frame, key).

        `results[3]` is that of frame 3 of `spawn_many`; `results["2024-01-01"]`, `results[date(2024, 1, 1)]` and
        `results[{"day": "2024-01-01"}]` are that of a key; `results[3, "2024-01-01"]` that of a key of a frame.
        """
        found = self._indexed().get(self._lookup(item))
        if found is None:
            raise KeyError(f"no result for {item!r}: there is no such query, or it did not succeed")
        return found

    def lazy(self, *, with_keys: bool = False, how: ConcatMethod = "vertical") -> pl.LazyFrame:
        """All results as one LazyFrame, in order of frame and key.

        Parameters
        ----------
        with_keys
            Add the key columns (and ``frame``, for `spawn_many`) where the results do not have such columns, as text
            (``frame`` as an integer).
        how
            As in `polars.concat`, for results whose columns differ.

        Examples
        --------
        >>> by_day.lazy(with_keys=True).group_by("day").len().collect()
        """
        results = list(self)
        if not results:
            return pl.LazyFrame()
        if with_keys:
            return pl.concat([_keyed(result) for result in results], how=how)
        return pl.concat([_scan_group(group, self._sink) for group in _alike(results)], how=how)

    def collect(self, *, with_keys: bool = False, how: ConcatMethod = "vertical") -> pl.DataFrame:
        """`lazy(...)`, collected."""
        return self.lazy(with_keys=with_keys, how=how).collect()

    def table(self) -> pl.DataFrame:
        """One line for each result: frame, key columns (as text, behind ``key_``), rows, bytes and locations."""
        lines = []
        for result in self:
            keys = {f"key_{name}": value for name, value in (result.key or {}).items()}
            lines.append(
                {
                    "frame": result.frame,
                    **keys,
                    "rows": result.rows,
                    "bytes": result.size_bytes,
                    "locations": result.locations,
                }
            )
        schema = {
            "frame": pl.Int64,
            **{f"key_{name}": pl.String for name in self.keys or []},
            "rows": pl.Int64,
            "bytes": pl.Int64,
            "locations": pl.List(pl.String),
        }
        return pl.DataFrame(lines, schema=schema)

    def _lookup(self, item: Any) -> tuple[int | None, _Key]:
        frame: Any = None
        key: Any = None
        names = self.keys or []
        if self._job["mode"] == "many":
            if names and isinstance(item, tuple) and len(item) == 2:
                frame, key = item
            elif names:
                raise KeyError(f"{item!r}: give a frame and a key, such as results[0, {{{names[0]!r}: ...}}]")
            else:
                frame = item
            if not isinstance(frame, int):
                raise KeyError(f"{item!r}: frames are numbered from 0")
        else:
            key = item
        return frame, self._key_texts(names, key)

    def _key_texts(self, names: list[str], key: Any) -> _Key:
        if not names:
            return frozenset()
        if isinstance(key, dict):
            if set(key) != set(names):
                raise KeyError(f"{key!r}: the keys are {names}")
            values = key
        else:
            parts = key if isinstance(key, tuple) else (key,)
            if len(parts) != len(names):
                raise KeyError(f"{key!r}: the keys are {names}")
            values = dict(zip(names, parts, strict=True))
        return frozenset((name, _key_text(value)) for name, value in values.items())

    def _indexed(self) -> dict[tuple[int | None, _Key], QueryResult]:
        if self._index is None:
            index: dict[tuple[int | None, _Key], QueryResult] = {}
            head_chars = 0
            for result in self:
                head_chars += len(result._wire["head"] or "")
                if head_chars > INDEXED_HEAD_CHARS_MAX and result._wire["locations"]:
                    result._wire["head"] = None
                frame = result.frame if self._job["mode"] == "many" else None
                index[frame, frozenset((result.key or {}).items())] = result
            self._index = index
        return self._index

    def _counts_frame(self) -> pl.DataFrame:
        counts = self._job["counts"]
        names = [name for name in counts if name == "total" or counts[name] > 0]
        return pl.DataFrame({name: [counts[name]] for name in names})

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._counts_frame()}"

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self._counts_frame()._repr_html_()}"

    def _title(self) -> str:
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        where = self._job["output"]["destination"]
        return f"ManyResult of {self._job['id']}{by}{f' in {where}' if where else ''}"


_Key = frozenset[tuple[str, str | None]]


def _key_text(value: Any) -> str | None:
    """A key value as the engine writes it."""
    if value is None or isinstance(value, str):
        return value
    column = pl.Series([value])
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.to_string(
            "%Y-%m-%dT%H:%M:%S%.f%:z" if column.dtype.time_zone else "%Y-%m-%dT%H:%M:%S%.f"
        ).item()
    if isinstance(column.dtype, pl.Time):
        return column.dt.to_string("%H:%M:%S%.f").item()
    if isinstance(column.dtype, pl.Duration):
        return column.dt.to_string("iso").item()
    return column.cast(pl.String).item()


def _keyed(result: QueryResult) -> pl.LazyFrame:
    frame = result.lazy()
    known = set(frame.collect_schema().names())
    added: list[pl.Expr] = []
    if result.frame is not None and "frame" not in known:
        added.append(pl.lit(result.frame, dtype=pl.Int64).alias("frame"))
    for name, value in (result.key or {}).items():
        if name not in known:
            added.append(pl.lit(value, dtype=pl.String).alias(name))
    return frame.with_columns(added) if added else frame


def _alike(results: list[QueryResult]) -> Iterator[list[QueryResult]]:
    """Neighbours of the same format and columns, which one scan can read."""
    group: list[QueryResult] = []
    for result in results:
        if group and (
            result._wire["schema"] != group[0]._wire["schema"]
            or result.format != group[0].format
            or (result.rows == 0) != (group[0].rows == 0)
            or (result.locations == []) != (group[0].locations == [])
        ):
            yield group
            group = []
        group.append(result)
    if group:
        yield group


def _scan_group(group: list[QueryResult], sink: Sink | None) -> pl.LazyFrame:
    if len(group) == 1:
        return group[0].lazy()
    if not group[0].locations:
        return pl.concat([result.collect() for result in group]).lazy()
    return scan_locations(
        [location for result in group for location in result.locations],
        group[0].format,
        group[0]._schema(),
        sum(result.rows for result in group),
        sink.options if sink else {},
        sink.storage_options if sink else {},
    )


def single_result(job: Job, sink: Sink | None) -> QueryResult:
    if job["result"] is None:
        raise ServerError(f"the server says that {job['id']} succeeded, but gave no result")
    return QueryResult(job["result"], job["id"], sink or recorded_sink(job))
