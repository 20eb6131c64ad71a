"""Runs submitted plans with the local Polars, so that the fake server's results are real ones."""

from __future__ import annotations

import base64
import contextlib
import io
import traceback
import warnings
from datetime import datetime, time
from pathlib import Path
from typing import Any

import polars as pl

EXTENSIONS = {"parquet": "parquet", "csv": "csv", "ipc": "arrow", "ndjson": "ndjson"}


def open_plan(data: str) -> pl.LazyFrame:
    return pl.LazyFrame.deserialize(io.BytesIO(base64.b64decode(data)))


def split_keys(lf: pl.LazyFrame, keys: list[dict[str, Any]]) -> list[tuple[dict[str, str | None], pl.LazyFrame]]:
    """Key texts with the query for each. Takes the key from the query's own rows: enough for queries that only scan."""
    exprs = []
    for key in keys:
        if key.get("expr"):
            expr = pl.Expr.deserialize(io.BytesIO(base64.b64decode(key["expr"])))
        else:
            expr = pl.col(key["name"])
        exprs.append(expr.alias(key["name"]))
    found = lf.select(exprs).unique().sort(pl.all()).collect()
    split = []
    for index in range(found.height):
        wanted = pl.all_horizontal(
            expr.eq_missing(pl.lit(found[index, key["name"]])) for expr, key in zip(exprs, keys, strict=True)
        )
        split.append(
            ({name: key_text(value) for name, value in found.row(index, named=True).items()}, lf.filter(wanted))
        )
    return split


def key_text(value: Any) -> str | None:
    """ISO 8601 for what has it; lower case for truth; a number's own text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (datetime, time)):
        whole_ms = value.microsecond and value.microsecond % 1000 == 0
        return value.isoformat(timespec="milliseconds" if whole_ms else "auto")
    return str(value).lower() if isinstance(value, bool) else str(value)


def output_file(output: dict[str, Any], results: Path, task_id: str, parts: list[str]) -> Path:
    """Where a task writes: its own file at the results location, or below the destination."""
    extension = EXTENSIONS[output["format"]]
    if output["destination"] is None:
        path = results / task_id / f"1.{extension}"
    else:
        scheme, found, rest = output["destination"].partition("://")
        # An object store is a folder here.
        root = results.parent / "objects" / scheme / rest if found else Path(output["destination"])
        is_file = output["destination"].endswith(f".{extension}")
        path = root if is_file else root.joinpath(*parts) / f"part-0.{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


CARRIER = "frazil:array[0]"


def carried_type(dtype: Any) -> Any:
    """Arrays of width zero are written as structs of one field: Polars can't read them from Arrow IPC."""
    if isinstance(dtype, pl.Array):
        inner = carried_type(dtype.inner)
        return pl.Struct({CARRIER: inner}) if dtype.size == 0 else pl.Array(inner, dtype.size)
    if isinstance(dtype, pl.List):
        return pl.List(carried_type(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return pl.Struct({entry.name: carried_type(entry.dtype) for entry in dtype.fields})
    return dtype


def carried_value(value: Any, dtype: Any) -> Any:
    if value is None:
        return None
    if isinstance(dtype, pl.Array) and dtype.size == 0:
        return {CARRIER: None}
    if isinstance(dtype, (pl.Array, pl.List)):
        return [carried_value(item, dtype.inner) for item in value]
    if isinstance(dtype, pl.Struct):
        return {entry.name: carried_value(value[entry.name], entry.dtype) for entry in dtype.fields}
    return value


def as_carriers(frame: pl.DataFrame) -> pl.DataFrame:
    columns = []
    for column in frame.get_columns():
        carried = carried_type(column.dtype)
        if carried != column.dtype:
            values = [carried_value(value, column.dtype) for value in column.to_list()]
            column = pl.Series(column.name, values, dtype=carried)
        columns.append(column)
    return frame.with_columns(columns)


class Failed(Exception):
    """The query failed: `info` is its ErrorInfo."""

    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(info["message"])
        self.info = info


def run_query(lf: pl.LazyFrame, output: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """The parts of a TaskResult that come from running, and what was printed."""
    if output["mode"] == "error" and output["destination"] is not None and path.exists():
        detail = f'{path} already holds data; write with mode="overwrite" or mode="append"'
        raise Failed({"code": "destination_not_empty", "message": detail})
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            frame = lf.collect()
            written = as_carriers(frame) if output["format"] == "ipc" else frame
            getattr(written.lazy(), f"sink_{output['format']}")(str(path), **output["options"])
        except Exception as error:
            code = "query_failed" if isinstance(error, pl.exceptions.PolarsError) else "user_code_failed"
            shown = "".join(traceback.format_tb(error.__traceback__))
            info = {"code": code, "message": str(error), "type": type(error).__name__, "traceback": shown}
            raise Failed({**info, "module": type(error).__module__}) from error
    head = io.BytesIO()
    as_carriers(frame.head(100)).rechunk().write_ipc_stream(head)
    result = {
        "locations": [str(path)],
        "format": output["format"],
        "schema": [{"name": name, "dtype": str(dtype)} for name, dtype in frame.schema.items()],
        "rows": frame.height,
        "bytes": path.stat().st_size,
        "head": base64.b64encode(head.getvalue()).decode(),
        "warnings": [{"category": found.category.__name__, "message": str(found.message)} for found in caught],
    }
    return result, printed.getvalue().splitlines()
