"""Arrays of width zero out of Arrow IPC, where Polars can write them but not read them.

In a result's file, and in its head, `Array(T, 0)` stands as a struct with one field of a name of its own: a null row is
a null struct, any other row is a struct. The recorded schema names the real type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def restore_arrays(frame: Frame, schema: pl.Schema | None) -> Frame:
    """The frame with arrays of width zero where its recorded schema has them; the same frame where it has none."""
    narrow = {name: dtype for name, dtype in (schema or {}).items() if has_empty_array(dtype)}
    if not narrow:
        return frame
    return frame.with_columns(_restore(pl.col(literal(name)), dtype).alias(name) for name, dtype in narrow.items())


def has_empty_array(dtype: pl.DataType) -> bool:
    """Whether the type is, or holds, an Array of width zero."""
    if isinstance(dtype, pl.Array):
        return dtype.size == 0 or has_empty_array(as_instance(dtype.inner))
    if isinstance(dtype, pl.List):
        return has_empty_array(as_instance(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return any(has_empty_array(as_instance(entry.dtype)) for entry in dtype.fields)
    return False


def _restore(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An expression of type `dtype`, of one that carries it."""
    if not has_empty_array(dtype):
        return expr
    if isinstance(dtype, pl.Array) and dtype.size == 0:
        return pl.when(expr.is_not_null()).then(pl.lit(pl.Series([[]], dtype=dtype)).first())
    if isinstance(dtype, pl.List):
        return expr.list.eval(_restore(pl.element(), as_instance(dtype.inner)))
    if isinstance(dtype, pl.Array):
        inner = _restore(pl.element(), as_instance(dtype.inner))
        return expr.arr.to_list().list.eval(inner).list.to_array(dtype.size)
    assert isinstance(dtype, pl.Struct)
    return make_struct(expr, dtype, _restore)


def make_struct(expr: pl.Expr, dtype: pl.Struct, convert: Callable[[pl.Expr, pl.DataType], pl.Expr]) -> pl.Expr:
    """A struct of type `dtype`, of one whose fields `convert` converts; null stays null."""
    # By plain names: a field whose name reads like a pattern can't be asked for inside an expression.
    plain = expr.struct.rename_fields([str(index) for index in range(len(dtype.fields))])
    entries = [
        convert(plain.struct.field(str(index)), as_instance(entry.dtype)).alias(entry.name)
        for index, entry in enumerate(dtype.fields)
    ]
    return pl.when(expr.is_not_null()).then(pl.struct(entries))


def literal(name: str) -> str:
    """A name that begins with ^ and ends in $ would be taken for a pattern, and * for every column."""
    return f"^{re.escape(name)}$" if name == "*" or (name.startswith("^") and name.endswith("$")) else name


def as_instance(dtype: Any) -> pl.DataType:
    """Polars' inner types may be classes."""
    return dtype() if isinstance(dtype, type) else dtype
