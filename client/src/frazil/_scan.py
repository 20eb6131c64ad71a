"""Reads results back from where they were written, with the types that they were written from."""

from __future__ import annotations

import glob
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl

from frazil._carriers import as_instance, literal, make_struct, restore_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from frazil._wire import Format

# Read by Polars' text readers from what its writers write. Others are read as something wider, and cast.
_CSV_READABLE = (pl.Boolean, pl.String, pl.Decimal)
_CSV_TEXT = (pl.Categorical, pl.Enum, pl.Null)
_CSV_TEMPORAL = {pl.Date: "date_format", pl.Time: "time_format", pl.Datetime: "datetime_format"}
_CSV_ARGUMENTS = (  # Of the writer, and of the reader.
    *(("separator", "separator"), ("decimal_comma", "decimal_comma")),
    *(("quote_char", "quote_char"), ("null_value", "null_values")),
)
_JSON_READABLE = (
    *(pl.Int32, pl.Int64, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
    *(pl.Boolean, pl.String, pl.Date, pl.Null),
)
# The reader refuses some of their values, but gives the text of any. By name: not every Polars has both.
_JSON_WIDE = ("Int128", "UInt128")
_JSON_TEXT = (pl.Decimal, pl.Categorical, pl.Enum, pl.Time)
# As the writers write them: JSON has a colon in the offset, CSV has none, and both are read.
_TIME_WRITTEN = "%H:%M:%S%.f"
_ZONED_WRITTEN = "%Y-%m-%dT%H:%M:%S%.f%z"
# Options that Polars itself reads. They travel as texts.
_NUMERIC_OPTIONS = {
    **dict.fromkeys(("file_cache_ttl", "max_retries"), int),
    **dict.fromkeys(("retry_timeout_ms", "retry_init_backoff_ms", "retry_max_backoff_ms"), int),
    **dict.fromkeys(("rate_read_init", "rate_read_floor", "rate_read_ceiling"), int),
    **dict.fromkeys(("rate_write_init", "rate_write_floor", "rate_write_ceiling"), int),
    "retry_base_multiplier": float,
}


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
        # A text file without rows has no types, and may have no header either.
        return pl.LazyFrame(schema=scanned_schema(format, schema, options))
    given: dict[str, Any] = {"storage_options": _scan_options(storage_options)} if storage_options else {}
    files = list(locations)
    if format == "parquet":
        return pl.scan_parquet(files, hive_partitioning=False, glob=False, **given)
    if format == "ipc":
        return restore_arrays(pl.scan_ipc(files, hive_partitioning=False, glob=False, **given), schema)
    if format == "csv":
        return _scan_csv(files, schema, options, given)
    return _scan_ndjson(files, schema, given)


def scanned_schema(format: Format, schema: pl.Schema, options: Mapping[str, Any]) -> pl.Schema:
    """The types that a scan gives: those of the query, but String for what can't be read from a text file."""
    if format == "csv":
        return pl.Schema({name: _csv_types(dtype, options)[1] for name, dtype in schema.items()})
    if format == "ndjson":
        return pl.Schema({name: _json_types(dtype)[1] for name, dtype in schema.items()})
    return schema


def _scan_options(storage_options: Mapping[str, str]) -> dict[str, str | int | float]:
    """Storage options with Polars' own as numbers, where this release wants them so."""
    if _NUMERIC_OPTIONS.keys().isdisjoint(storage_options) or not _takes_numbers():
        return dict(storage_options)
    return {name: _number(name, text) for name, text in storage_options.items()}


def _number(name: str, text: str) -> str | int | float:
    try:
        return _NUMERIC_OPTIONS[name](text)
    except (KeyError, ValueError):
        return text  # Not Polars' own, or Polars says what is wrong with it.


@lru_cache(maxsize=1)
def _takes_numbers() -> bool:
    """Older releases of Polars take texts only, newer ones numbers only."""
    try:
        pl.scan_parquet("s3://bucket/key", storage_options={"max_retries": 0}, credential_provider=None)
    except TypeError:
        return False
    return True


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
    types = {name: _csv_types(dtype, options) for name, dtype in schema.items()}
    overrides = {name: read for name, (read, _) in types.items()}
    return _narrowed(pl.scan_csv(files, glob=False, schema_overrides=overrides, **arguments, **given), types)


def _scan_ndjson(files: list[str], schema: pl.Schema | None, given: dict[str, Any]) -> pl.LazyFrame:
    # scan_ndjson always globs.
    escaped = [name if "://" in name else glob.escape(name) for name in files]
    types = {name: _json_types(dtype) for name, dtype in (schema or {}).items()}
    overrides = {name: read for name, (read, _) in types.items()}
    frame = pl.scan_ndjson(escaped, infer_schema_length=None, schema_overrides=overrides or None, **given)
    return _narrowed(frame, types)


_Types = tuple[pl.DataType, pl.DataType]
"""The type to read a column as, and the type to make of that."""


def _csv_types(dtype: pl.DataType, options: Mapping[str, Any]) -> _Types:
    if dtype.is_integer() or dtype.is_float() or isinstance(dtype, _CSV_READABLE):
        return dtype, dtype
    for kind, written_with in _CSV_TEMPORAL.items():
        if isinstance(dtype, kind) and options.get(written_with) is None:
            return (pl.String() if _is_zoned(dtype) else dtype), dtype
    return pl.String(), dtype if isinstance(dtype, _CSV_TEXT) else pl.String()


def _json_types(dtype: pl.DataType) -> _Types:
    if isinstance(dtype, _JSON_TEXT) or str(dtype) in _JSON_WIDE or _is_zoned(dtype):
        return pl.String(), dtype
    if isinstance(dtype, (*_JSON_READABLE, pl.Datetime)):
        return dtype, dtype
    if dtype.is_integer():
        return pl.Int64(), dtype
    if dtype.is_float():
        return pl.Float64(), dtype
    if isinstance(dtype, (pl.List, pl.Array)):
        read, made = _json_types(as_instance(dtype.inner))
        return pl.List(read), pl.List(made) if isinstance(dtype, pl.List) else pl.Array(made, dtype.size)
    if isinstance(dtype, pl.Struct):
        fields = {entry.name: _json_types(as_instance(entry.dtype)) for entry in dtype.fields}
        return (
            pl.Struct({name: read for name, (read, _) in fields.items()}),
            pl.Struct({name: made for name, (_, made) in fields.items()}),
        )
    return pl.String(), pl.String()


def _is_zoned(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone is not None


def _narrowed(frame: pl.LazyFrame, types: Mapping[str, _Types]) -> pl.LazyFrame:
    wider = {name: made for name, (read, made) in types.items() if read != made}
    return frame.with_columns(_narrow(pl.col(literal(name)), made).alias(name) for name, made in wider.items())


def _narrow(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An expression of type `dtype`, of one of the type that it was read as."""
    if not _is_parsed(dtype):
        # Strictly, values that lie hidden below a null row would be refused, too.
        return expr.cast(dtype, strict=not dtype.is_nested())
    if isinstance(dtype, pl.Time):
        return expr.str.to_time(_TIME_WRITTEN)
    if isinstance(dtype, pl.Datetime):
        parsed = expr.str.to_datetime(_ZONED_WRITTEN, time_unit=dtype.time_unit, time_zone="UTC")
        return parsed.dt.convert_time_zone(dtype.time_zone or "UTC")
    if isinstance(dtype, pl.List):
        return expr.list.eval(_narrow(pl.element(), as_instance(dtype.inner)))
    if isinstance(dtype, pl.Array):
        return expr.list.eval(_narrow(pl.element(), as_instance(dtype.inner))).list.to_array(dtype.size)
    assert isinstance(dtype, pl.Struct)
    return make_struct(expr, dtype, _narrow)


def _is_parsed(dtype: pl.DataType) -> bool:
    """Whether the type is, or holds, one that Polars does not cast text to as it is written here."""
    if isinstance(dtype, (pl.List, pl.Array)):
        return _is_parsed(as_instance(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return any(_is_parsed(as_instance(entry.dtype)) for entry in dtype.fields)
    return isinstance(dtype, pl.Time) or _is_zoned(dtype)
