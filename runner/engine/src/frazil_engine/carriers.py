"""Carries arrays of width zero through Arrow IPC, which Polars writes but can't read back.

In a file, `Array(T, 0)` stands as a struct whose only field is named `frazil:array[0]` and is of type T (carried
itself, where it needs that): a null row is a null struct, any other row is a struct. `decode_frame` of a scan makes
the arrays again. This module needs nothing but Polars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

FIELD_NAME = "frazil:array[0]"
Convert = Callable[[pl.Expr, pl.DataType], pl.Expr]


def has_zero_width(dtype: pl.DataType) -> bool:
    """Whether an array of width zero is anywhere in this type."""
    if isinstance(dtype, pl.Array):
        return dtype.size == 0 or has_zero_width(inner_of(dtype))
    if isinstance(dtype, pl.List):
        return has_zero_width(inner_of(dtype))
    if isinstance(dtype, pl.Struct):
        return any(has_zero_width(as_instance(field.dtype)) for field in dtype.fields)
    return False


def is_carrier(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Struct) and [field.name for field in dtype.fields] == [FIELD_NAME]


def has_carrier(dtype: pl.DataType) -> bool:
    """Whether a carrier is anywhere in this type."""
    if isinstance(dtype, (pl.Array, pl.List)):
        return has_carrier(inner_of(dtype))
    if isinstance(dtype, pl.Struct):
        return is_carrier(dtype) or any(has_carrier(as_instance(field.dtype)) for field in dtype.fields)
    return False


def encode_frame(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The frame with carriers for its arrays of width zero; the same frame when it has none."""
    schema = frame.collect_schema()
    if not any(has_zero_width(dtype) for dtype in schema.dtypes()):
        return frame
    return frame.with_columns(
        encode_expr(pl.col(escape(name)), dtype).alias(name) for name, dtype in schema.items() if has_zero_width(dtype)
    )


def encode_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The same for a frame that is there already."""
    if not any(has_zero_width(dtype) for dtype in frame.schema.dtypes()):
        return frame
    return encode_frame(frame.lazy()).collect()


def decode_frame(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The frame with arrays of width zero for its carriers; the same frame when it has none."""
    schema = frame.collect_schema()
    if not any(has_carrier(dtype) for dtype in schema.dtypes()):
        return frame
    return frame.with_columns(
        decode_expr(pl.col(escape(name)), dtype).alias(name) for name, dtype in schema.items() if has_carrier(dtype)
    )


def decoded_dtype(dtype: pl.DataType) -> pl.DataType:
    """The type that a carried type stands for."""
    if is_carrier(dtype):
        assert isinstance(dtype, pl.Struct)
        return pl.Array(decoded_dtype(as_instance(dtype.fields[0].dtype)), 0)
    if isinstance(dtype, pl.List):
        return pl.List(decoded_dtype(inner_of(dtype)))
    if isinstance(dtype, pl.Array):
        return pl.Array(decoded_dtype(inner_of(dtype)), dtype.size)
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: decoded_dtype(as_instance(field.dtype)) for field in dtype.fields})
    return dtype


def encoded_dtype(dtype: pl.DataType) -> pl.DataType:
    """The type in which a type is carried."""
    if isinstance(dtype, pl.Array) and dtype.size == 0:
        return pl.Struct({FIELD_NAME: encoded_dtype(inner_of(dtype))})
    if isinstance(dtype, pl.List):
        return pl.List(encoded_dtype(inner_of(dtype)))
    if isinstance(dtype, pl.Array):
        return pl.Array(encoded_dtype(inner_of(dtype)), dtype.size)
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: encoded_dtype(as_instance(field.dtype)) for field in dtype.fields})
    return dtype


def encode_expr(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if not has_zero_width(dtype):
        return expr
    if isinstance(dtype, pl.Array) and dtype.size == 0:
        empty = pl.struct(pl.lit(None, dtype=encoded_dtype(inner_of(dtype))).alias(FIELD_NAME))
        return pl.when(expr.is_not_null()).then(empty)
    return map_inside(expr, dtype, encode_expr)


def decode_expr(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if not has_carrier(dtype):
        return expr
    if is_carrier(dtype):
        array = decoded_dtype(dtype)
        assert isinstance(array, pl.Array)
        # Made of an empty list, because a plan can't hold a literal of this type.
        empty = pl.lit(pl.Series([[]], dtype=pl.List(inner_of(array)))).first().list.to_array(0)
        return pl.when(expr.is_not_null()).then(empty)
    return map_inside(expr, dtype, decode_expr)


def map_inside(expr: pl.Expr, dtype: pl.DataType, convert: Convert) -> pl.Expr:
    """Converts what is inside a list, an array of some width, or a struct."""
    if isinstance(dtype, pl.List):
        return expr.list.eval(convert(pl.element(), inner_of(dtype)))
    if isinstance(dtype, pl.Array):
        return expr.arr.to_list().list.eval(convert(pl.element(), inner_of(dtype))).list.to_array(dtype.size)
    assert isinstance(dtype, pl.Struct)
    # Fields are taken under plain names: one whose name reads like a pattern can't be asked for inside an expression.
    plain = expr.struct.rename_fields([str(index) for index in range(len(dtype.fields))])
    fields = [
        convert(plain.struct.field(str(index)), as_instance(field.dtype)).alias(field.name)
        for index, field in enumerate(dtype.fields)
    ]
    return pl.when(expr.is_not_null()).then(pl.struct(fields))


def escape(name: str) -> str:
    """A name that begins with ^ and ends in $ would be taken for a pattern, and * for every column."""
    return f"^{re.escape(name)}$" if name == "*" or (name.startswith("^") and name.endswith("$")) else name


def columns(names: Iterable[str]) -> list[pl.Expr]:
    """The columns of these names, whatever the names read like."""
    return [pl.col(escape(name)) for name in names]


def inner_of(dtype: pl.Array | pl.List) -> pl.DataType:
    """The type of the elements. Polars folds the dimensions of nested arrays into a shape."""
    return as_instance(dtype.inner)


def as_instance(dtype: Any) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype
