"""Polars data types from their own text form, such as ``List(Datetime(time_unit='us', time_zone=None))``."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from frazil._wire import ColumnSchema

_TEXT_CHARS_MAX = 1_000_000
_PLAIN = frozenset(
    {
        *("Int8", "Int16", "Int32", "Int64", "Int128", "UInt8", "UInt16", "UInt32", "UInt64", "UInt128"),
        *("Float16", "Float32", "Float64", "Boolean", "String", "Binary", "Date", "Time", "Null", "Object"),
        *("Categorical", "Datetime", "Duration", "Decimal", "Enum", "List", "Array", "Struct"),
    }
)


def parse_dtype(text: str) -> pl.DataType | None:
    """The type that the text names; None if this Polars has no such type, or the text is not understood."""
    if len(text) > _TEXT_CHARS_MAX:
        return None
    try:
        parsed = _build(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, pl.exceptions.PolarsError):
        return None
    if isinstance(parsed, type) and issubclass(parsed, pl.DataType):
        try:
            return parsed()
        except TypeError:
            return None
    return parsed if isinstance(parsed, pl.DataType) else None


def parse_schema(columns: Iterable[ColumnSchema]) -> pl.Schema | None:
    """The schema, or None if one of its types is not understood."""
    schema: dict[str, pl.DataType] = {}
    for column in columns:
        dtype = parse_dtype(column["dtype"])
        if dtype is None:
            return None
        schema[column["name"]] = dtype
    return pl.Schema(schema)


def _build(node: ast.expr) -> Any:
    """Evaluates names of types, calls of types, and literals; nothing else."""
    if isinstance(node, ast.Name):
        found = getattr(pl, node.id, None) if node.id in _PLAIN else None
        if found is None:
            raise ValueError(node.id)
        return found
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name):
            raise ValueError("not a type")
        kind = _build(node.func)
        arguments = [_build(argument) for argument in node.args]
        named = {keyword.arg: _build(keyword.value) for keyword in node.keywords if keyword.arg is not None}
        return kind(*arguments, **named)
    if isinstance(node, ast.Dict):
        keys = [_build(key) for key in node.keys if key is not None]
        return dict(zip(keys, [_build(value) for value in node.values], strict=True))
    return ast.literal_eval(node)
