"""Writes a query's result with Polars' own writers, and says what was written."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import polars as pl

from frazil_engine import carriers
from frazil_engine.errors import Failure
from frazil_engine.limits import HEAD_READ_BYTES_MAX, HEAD_ROWS_MAX

EXTENSIONS = {"parquet": "parquet", "csv": "csv", "ipc": "arrow", "ndjson": "ndjson"}
# Arguments of the sinks that this engine sets, or that JSON can't hold.
OWN_ARGUMENTS = {
    "self", "path", "lazy", "engine", "optimizations", "storage_options", "credential_provider", "mkdir", "retries",
    "sync_on_close", "sinked_paths_callback", "_record_batch_statistics", "field_overwrites", "arrow_schema",
    "encryption", "check_extension",
}  # fmt: skip
# Formats whose files tell their rows and types without being read.
SCANNED_FORMATS = ("parquet", "ipc")


@dataclass(frozen=True)
class Target:
    """A file or object to be written. `open` gives a writable file for what Polars does not write by itself."""

    location: str
    storage_options: dict[str, Any] | None
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]
    size: Callable[[], int]


@dataclass(frozen=True)
class Written:
    """What a written result holds."""

    schema: list[tuple[str, str]]
    rows: int
    bytes: int
    head: bytes


def accepted_options(format: str) -> list[str]:
    """Names of the options that a format's sink takes in this Polars release."""
    sink = getattr(pl.LazyFrame, f"sink_{format}")
    return [name for name in inspect.signature(sink).parameters if name not in OWN_ARGUMENTS]


def check_options(format: str, options: dict[str, Any]) -> dict[str, Any]:
    """Refuses options that the sink does not take, naming them and those that it takes."""
    if not options:
        return {}
    accepted = accepted_options(format)
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise Failure(
            "unprocessable",
            f"sink_{format} of Polars {pl.__version__} has no option {', '.join(unknown)}. "
            f"It accepts: {', '.join(accepted)}.",
        )
    if isinstance(options.get("compat_level"), int):
        return {**options, "compat_level": pl.CompatLevel._with_version(options["compat_level"])}
    return options


def choose_engine(engine: str) -> Any:
    """What Polars is told: its streaming engine writes sinks best, so that is what "auto" means here."""
    if engine == "auto":
        return "streaming"
    if engine != "gpu":
        return engine
    try:
        import cudf_polars  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Failure(
            "not_available",
            "This engine environment has no GPU support for Polars (no module cudf_polars).",
            hint='Ask for a context with a GPU, or leave engine="auto".',
        ) from None
    return pl.GPUEngine(raise_on_fail=False)


def write_result(
    frame: pl.LazyFrame, target: Target, format: str, options: dict[str, Any], engine: Any, head_bytes_max: int
) -> Written:
    """Runs the query and writes its result to the target. The result is never held in memory whole, unless the engine
    needs that.
    """
    if format in SCANNED_FORMATS:
        sink_file(frame, target, format, options, engine)
        return read_written(target, format, head_bytes_max)
    return write_text(frame, target, format, options, engine, head_bytes_max)


def sink_file(frame: pl.LazyFrame, target: Target, format: str, options: dict[str, Any], engine: Any) -> None:
    write = getattr(frame if isinstance(engine, str) else frame.collect(engine=engine).lazy(), f"sink_{format}")
    write(
        target.location,
        engine=engine if isinstance(engine, str) else "in-memory",
        storage_options=target.storage_options,
        **options,
    )


def read_written(target: Target, format: str, head_bytes_max: int) -> Written:
    """Reads back the schema, the number of rows, and the head, without reading the data."""
    scan = pl.scan_parquet if format == "parquet" else pl.scan_ipc
    written = scan(target.location, storage_options=target.storage_options, glob=False)
    size = target.size()
    rows = None
    limit = HEAD_ROWS_MAX if head_bytes_max > 0 else 0
    if size > HEAD_READ_BYTES_MAX:
        rows = written.select(pl.len()).collect().item()
        limit = min(limit, HEAD_READ_BYTES_MAX * rows // size)
    head = written.head(limit).collect()
    if rows is None:
        rows = head.height if head.height < limit else written.select(pl.len()).collect().item()
    return Written(describe_schema(head), rows, size, encode_head(head, head_bytes_max))


def describe_schema(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """Names and types as Polars writes them; carried types stand for what they carry."""
    return [(name, str(carriers.decoded_dtype(dtype))) for name, dtype in frame.schema.items()]


def check_schema(schema: pl.Schema, format: str, may_carry: bool) -> None:
    """Refuses columns that can't be written so that they can be read again. Raises Failure (result_unsupported)."""
    for name, dtype in schema.items():
        if has_object(dtype):
            raise Failure(
                "result_unsupported",
                f'Column "{name}" is of type {dtype}: Python objects have no form in a file.',
                hint="Cast it, or drop it.",
            )
        if format == "ipc" and not may_carry and carriers.has_zero_width(dtype):
            raise Failure(
                "result_unsupported",
                f'Column "{name}" is of type {dtype}: Polars can\'t read arrays of width zero from Arrow IPC.',
                hint="Write Parquet, or drop it.",
            )


def has_object(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(has_object(carriers.as_instance(field.dtype)) for field in dtype.fields)
    if isinstance(dtype, (pl.List, pl.Array)):
        return has_object(carriers.as_instance(dtype.inner))
    return dtype == pl.Object


def encode_head(head: pl.DataFrame, bytes_max: int) -> bytes:
    """The first rows as an Arrow IPC stream of at most `bytes_max`; no bytes when not even the schema fits."""
    rows = min(head.height, HEAD_ROWS_MAX)
    while bytes_max > 0:
        encoded = encode_stream(head.head(rows))
        if len(encoded) <= bytes_max:
            return encoded
        if rows == 0:
            break
        rows //= 2
    return b""


def encode_stream(frame: pl.DataFrame) -> bytes:
    """A frame as an Arrow IPC stream, which Polars writes ten times faster than a small file."""
    buffer = io.BytesIO()
    frame.rechunk().write_ipc_stream(buffer)
    return buffer.getvalue()


def write_text(
    frame: pl.LazyFrame, target: Target, format: str, options: dict[str, Any], engine: Any, head_bytes_max: int
) -> Written:
    """Writes csv or ndjson batch by batch, because such a file tells neither its number of rows nor its types."""
    options = dict(options)
    order = options.pop("maintain_order", True)
    with target.open() as file:
        writer = TextWriter(file, format, options)
        if isinstance(engine, str):
            frame.sink_batches(writer.write, maintain_order=order, engine=engine)  # pyright: ignore[reportArgumentType]
        else:
            writer.write(frame.collect(engine=engine))
        if writer.head is None:
            writer.write(pl.DataFrame(schema=frame.collect_schema()))
        head = writer.head
    assert head is not None
    return Written(describe_schema(head), writer.rows, target.size(), encode_head(head, head_bytes_max))


class TextWriter:
    """Writes batches one behind the other, counts their rows and keeps the first ones."""

    def __init__(self, file: BinaryIO, format: str, options: dict[str, Any]) -> None:
        self._file = file
        self._format = format
        self._options = options
        self.rows = 0
        self.head: pl.DataFrame | None = None

    def write(self, batch: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        if self._format == "ndjson":
            batch.write_ndjson(buffer, **self._options)
        elif self.head is None:
            batch.write_csv(buffer, **self._options)
        else:
            batch.write_csv(buffer, **{**self._options, "include_header": False, "include_bom": False})
        self._file.write(buffer.getbuffer())
        if self.head is None:
            self.head = batch.head(HEAD_ROWS_MAX)
        elif self.head.height < HEAD_ROWS_MAX:
            self.head = self.head.vstack(batch.head(HEAD_ROWS_MAX - self.head.height))
        self.rows += batch.height
