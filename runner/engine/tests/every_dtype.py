"""One column of every type and nesting that a Polars release has."""

from __future__ import annotations

import contextlib
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

NUMBERS = [
    "Int8", "Int16", "Int32", "Int64", "Int128", "UInt8", "UInt16", "UInt32", "UInt64", "UInt128",
    "Float16", "Float32", "Float64",
]  # fmt: skip


def columns() -> dict[str, pl.Series]:
    """Columns by a name for their case. Each holds nulls and values, where its type has them."""
    found = {**numbers(), **temporals(), **texts(), **nested(), **zero_widths()}
    return {case: column.alias("column") for case, column in found.items()}


def numbers() -> dict[str, pl.Series]:
    made = {name: pl.Series([1, None, 3], dtype=getattr(pl, name)) for name in NUMBERS if hasattr(pl, name)}
    made["Int128 large"] = pl.Series([2**100, None, -(2**126)], dtype=pl.Int128)
    made["Float64 special"] = pl.Series([float("nan"), None, float("inf"), -0.0], dtype=pl.Float64)
    made["Decimal"] = pl.Series([Decimal("1.23"), None, Decimal("-4.50")], dtype=pl.Decimal(20, 2))
    made["Decimal wide"] = pl.Series([Decimal("1.23"), None], dtype=pl.Decimal(38, 10))
    made["Boolean"] = pl.Series([True, None, False])
    made["Null"] = pl.Series([None, None, None])
    return made


def temporals() -> dict[str, pl.Series]:
    made = {
        "Date": pl.Series([date(2020, 1, 1), None, date(1, 1, 1), date(9999, 12, 31)]),
        "Time": pl.Series([time(1, 2, 3, 4), None, time(23, 59, 59, 999_999)]),
    }
    for unit in ("ns", "us", "ms"):
        made[f"Duration {unit}"] = pl.Series([1, None, -3], dtype=pl.Duration(unit))
        made[f"Datetime {unit}"] = pl.Series([1, None, -3], dtype=pl.Datetime(unit))
        made[f"Datetime {unit} zone"] = pl.Series([1, None, -3], dtype=pl.Datetime(unit, "Europe/Amsterdam"))
    return made


def texts() -> dict[str, pl.Series]:
    made = {
        "String": pl.Series(["", None, "ü" * 20, "a\0b"]),
        "Binary": pl.Series([b"", None, b"\xff" * 30]),
        "Enum": pl.Series(["x", None, "y"], dtype=pl.Enum(["y", "x", "unused"])),
        "Enum empty": pl.Series([None, None], dtype=pl.Enum([])),
        "Categorical": pl.Series(["x", None, "y"], dtype=pl.Categorical),
    }
    if hasattr(pl, "Categories"):
        for physical in (pl.UInt8, pl.UInt16, pl.UInt32):
            categories = pl.Categories(f"test {physical}", "space", physical)
            made[f"Categorical {physical}"] = pl.Series(["x", None, "y"], dtype=pl.Categorical(categories))
    return made


def nested() -> dict[str, pl.Series]:
    made = {
        "List": pl.Series([[1, None], None, []], dtype=pl.List(pl.Int64)),
        "List of List": pl.Series([[[1], None], None, []], dtype=pl.List(pl.List(pl.Int8))),
        "List of Null": pl.Series([[None], None, []], dtype=pl.List(pl.Null)),
        "List of Categorical": pl.Series([["x", None], None, []], dtype=pl.List(pl.Categorical)),
        "List of Enum": pl.Series([["x"], None, []], dtype=pl.List(pl.Enum(["x"]))),
        "List of Decimal": pl.Series([[Decimal("1.1")], None], dtype=pl.List(pl.Decimal(10, 1))),
        "List of Int128": pl.Series([[1], None], dtype=pl.List(pl.Int128)),
        "Array": pl.Series([[1, None], None, [3, 4]], dtype=pl.Array(pl.Int64, 2)),
        "Array of Array": pl.Series([[[1, 2]], None], dtype=pl.Array(pl.Int64, (1, 2))),
        "Array of Struct": pl.Series([[{"x": 1}], None], dtype=pl.Array(pl.Struct({"x": pl.Int64}), 1)),
        "Struct": pl.Series([{"x": 1, "y": "q"}, None, {"x": None, "y": None}]),
        "Struct without fields": pl.Series([{}, {}, None], dtype=pl.Struct({})),
        "Struct with a nameless field": pl.Series([{"": [1]}, None], dtype=pl.Struct({"": pl.List(pl.Int64)})),
        "Struct of Struct": pl.Series([{"a": {"b": time(1)}}, None], dtype=pl.Struct({"a": pl.Struct({"b": pl.Time})})),
        "Struct of Categorical": pl.Series([{"x": "q"}, None], dtype=pl.Struct({"x": pl.Categorical})),
        "List of Struct without fields": pl.Series([[{}], None], dtype=pl.List(pl.Struct({}))),
        "List of Duration": pl.Series([[timedelta(1)], None], dtype=pl.List(pl.Duration("ns"))),
        "List of Datetime": pl.Series([[datetime(2020, 1, 1)], None], dtype=pl.List(pl.Datetime("ms"))),
    }
    with contextlib.suppress(AttributeError):
        extension: Any = pl.Extension("frazil.test", pl.Int64, "metadata")  # pyright: ignore[reportAttributeAccessIssue]
        made["Extension"] = pl.Series([1, None]).ext.to(extension)  # pyright: ignore[reportAttributeAccessIssue]
    with contextlib.suppress(AttributeError):
        map_type: Any = pl.Map  # pyright: ignore[reportAttributeAccessIssue]
        made["Map"] = pl.Series([[{"key": "k", "value": 1}], None], dtype=map_type(pl.String, pl.Int64))
    return made


def zero_widths() -> dict[str, pl.Series]:
    return {
        "Array of no width": pl.Series([[], None, []], dtype=pl.Array(pl.Int64, 0)),
        "Array of no width without nulls": pl.Series([[], []], dtype=pl.Array(pl.String, 0)),
        "Array of no width of Enum": pl.Series([[], None], dtype=pl.Array(pl.Enum(["x"]), 0)),
        "Array of two by no width": pl.Series([[[], []], None], dtype=pl.Array(pl.Int64, (2, 0))),
        "Array of no width by two": pl.Series([[], None], dtype=pl.Array(pl.Int64, (0, 2))),
        "List of Array of no width": pl.Series([[[], None], None, []], dtype=pl.List(pl.Array(pl.Int8, 0))),
        "Struct of Array of no width": pl.Series(
            [{"^x$": [], "": 1}, None], dtype=pl.Struct({"^x$": pl.Array(pl.Int8, 0), "": pl.Int64})
        ),
    }
