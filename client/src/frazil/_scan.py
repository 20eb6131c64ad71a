"""Reads results back from where they were written, with the types that they were written from."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING, Any

import polars as pl

from frazil._carriers import as_instance, restore_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from frazil._wire import Format

# Read by Polars' text readers from what its writers write. Others are read as something wider, and cast.
_CSV_READABLE = (pl.Boolean, pl.String, pl.Decimal)
_CSV_TEMPORAL = {pl.Date: "date_format", pl.Time: "time_format", pl.Datetime: "datetime_format"}
_CSV_ARGUMENTS = (  # Of the writer, and of the reader.
    *(("separator", "separator"), ("decimal_comma", "decimal_comma")),
    *(("quote_char", "quote_char"), ("null_value", "null_values")),
)
_JSON_READABLE = (
    *(pl.Int32, pl.Int64, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
    *(pl.Boolean, pl.String, pl.Date, pl.Null),
)
_JSON_TEXT = (pl.Decimal, pl.Categorical, pl.Enum)


def scan_locations(
    locations: Sequence[str],
    format: Format,
    schema: pl.Schema | None,
    rows: int,
    options: Mapping[str, Any],
    storage_options: Mapping[str, str],
) -> pl.LazyFrame:
    """A scan of exactly these files: no globbing and no Hive columns, so that the frame is what the query wrote.

    `options` are the arguments that the files were written with, as far as they are known here.
    """
    if (not locations or (rows == 0 and format in ("csv", "ndjson"))) and schema is not None:
        return pl.LazyFrame(schema=schema)  # A text file without rows has no types, and may have no header either.
    given: dict[str, Any] = {"storage_options": dict(storage_options)} if storage_options else {}
    files = list(locations)
    if format == "parquet":
        return pl.scan_parquet(files, hive_partitioning=False, glob=False, **given)
    if format == "ipc":
        return restore_arrays(pl.scan_ipc(files, hive_partitioning=False, glob=False, **given), schema)
    if format == "csv":
        return _scan_csv(files, schema, options, given)
    return _scan_ndjson(files, schema, given)


def _scan_csv(
    files: list[str], schema: pl.Schema | None, options: Mapping[str, Any], given: dict[str, Any]
) -> pl.LazyFrame:
    arguments: dict[str, Any] = {"has_header": options.get("include_header", True)}
    for written, read in _CSV_ARGUMENTS:
        if options.get(written) is not None:
            arguments[read] = options[written]
    if options.get("quote_style") == "never":
        arguments["quote_char"] = None
    terminator = options.get("line_terminator")
    if terminator and terminator != "\r\n":
        arguments["eol_char"] = terminator[-1]
    if schema is None:
        return pl.scan_csv(files, glob=False, **arguments, **given)
    if not arguments["has_header"]:
        arguments["new_columns"] = schema.names()
    text = {name: dtype for name, dtype in schema.items() if isinstance(dtype, (pl.Categorical, pl.Enum))}
    readable = {name: dtype for name, dtype in schema.items() if _csv_readable(dtype, options)}
    overrides = {**readable, **dict.fromkeys(text, pl.String())}
    frame = pl.scan_csv(files, glob=False, schema_overrides=overrides, **arguments, **given)
    return frame.cast(text) if text else frame  # type: ignore[arg-type]


def _csv_readable(dtype: pl.DataType, options: Mapping[str, Any]) -> bool:
    if dtype.is_integer() or dtype.is_float() or isinstance(dtype, _CSV_READABLE):
        return True
    for kind, written_with in _CSV_TEMPORAL.items():
        if isinstance(dtype, kind):
            return options.get(written_with) is None and getattr(dtype, "time_zone", None) is None
    return False


def _scan_ndjson(files: list[str], schema: pl.Schema | None, given: dict[str, Any]) -> pl.LazyFrame:
    # scan_ndjson always globs.
    escaped = [name if "://" in name else glob.escape(name) for name in files]
    read_as = {
        name: pl.String() if isinstance(dtype, pl.Time) else _json_readable(dtype)
        for name, dtype in (schema or {}).items()
    }
    overrides = {name: dtype for name, dtype in read_as.items() if dtype is not None}
    frame = pl.scan_ndjson(escaped, infer_schema_length=None, schema_overrides=overrides or None, **given)
    wider = {name: (schema or {})[name] for name, dtype in overrides.items() if dtype != (schema or {})[name]}
    return frame.with_columns(_narrowed(name, dtype) for name, dtype in wider.items())


def _narrowed(name: str, dtype: pl.DataType) -> pl.Expr:
    # Polars 2 casts text to anything that is written here as text but this.
    return pl.col(name).str.to_time("%H:%M:%S%.f") if isinstance(dtype, pl.Time) else pl.col(name).cast(dtype)


def _json_readable(dtype: pl.DataType) -> pl.DataType | None:
    """The type to read a JSON value as, from which it can be cast; None: leave it to the reader."""
    if isinstance(dtype, _JSON_READABLE) or (isinstance(dtype, pl.Datetime) and dtype.time_zone is None):
        return dtype
    if dtype.is_integer():
        return pl.Int64()
    if isinstance(dtype, _JSON_TEXT):
        return pl.String()
    if isinstance(dtype, (pl.List, pl.Array)):
        inner = _json_readable(as_instance(dtype.inner))
        return None if inner is None else pl.List(inner)
    if isinstance(dtype, pl.Struct):
        fields = {entry.name: _json_readable(as_instance(entry.dtype)) for entry in dtype.fields}
        known = {name: inner for name, inner in fields.items() if inner is not None}
        return pl.Struct(known) if len(known) == len(fields) else None
    return None
