"""Key columns of a partitioned job: which sources have them, which values they take, and the text by which a value is
known.

A token is a JSON list of one text (or null) per key column, exact enough to make the value again; a path is what
people see.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from frazil_engine.carriers import escape
from frazil_engine.errors import Failure
from frazil_engine.plans import check_expression
from frazil_engine.protocol import PartitionBy

KEY_DTYPES = (
    pl.Boolean,
    pl.String,
    pl.Date,
    pl.Datetime,
    pl.Duration,
    pl.Time,
    pl.Decimal,
    pl.Categorical,
    pl.Enum,
    pl.Null,
)


@dataclass(frozen=True)
class KeyColumn:
    """One key: a name, and the expression over source columns that makes it."""

    name: str
    expr: pl.Expr
    roots: frozenset[str]
    is_plain: bool


def read_key_columns(partition_by: PartitionBy) -> list[KeyColumn]:
    """Raises Failure (invalid_key)."""
    columns = []
    for key in partition_by.keys:
        if key.expr is None:
            columns.append(KeyColumn(key.name, pl.col(escape(key.name)), frozenset((key.name,)), True))
            continue
        try:
            expr = pl.Expr.deserialize(io.BytesIO(check_expression(key.expr)[0]))
            roots = frozenset(expr.meta.root_names())
        except pl.exceptions.PolarsError as error:
            raise Failure("invalid_key", f'The expression of key "{key.name}" can\'t be read: {error}') from error
        if not roots:
            raise Failure(
                "invalid_key",
                f'The expression of key "{key.name}" uses no column.',
                hint="Make it from columns of the data that the query reads.",
            )
        columns.append(KeyColumn(key.name, expr.alias(key.name), roots, False))
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise Failure("invalid_key", f"Two keys have the same name: {', '.join(sorted(names))}.")
    return columns


def has_python(partition_by: PartitionBy) -> bool:
    """Whether an expression carries a pickle."""
    return any(key.expr is not None and check_expression(key.expr)[1] for key in partition_by.keys)


def applies(column: KeyColumn, schema: pl.Schema) -> bool:
    return column.roots <= set(schema.names())


def key_expr(column: KeyColumn, schema: pl.Schema) -> tuple[pl.Expr, pl.DataType]:
    """The key over a source with this schema, in the form in which values are compared, and its type. Raises Failure
    (invalid_key).
    """
    try:
        made = pl.LazyFrame(schema=schema).select(column.expr).collect_schema()
    except pl.exceptions.PolarsError as error:
        raise Failure("invalid_key", f'Key "{column.name}" can\'t be made from the source: {error}') from error
    if len(made) != 1:
        raise Failure("invalid_key", f'Key "{column.name}" is not one column but {len(made)}.')
    dtype = made.dtypes()[0]
    if not (dtype.is_numeric() or dtype in KEY_DTYPES):
        raise Failure(
            "invalid_key",
            f'Key "{column.name}" is of type {dtype}, of which no directory can be named.',
            hint="Cast it, or take a part of it.",
        )
    if not column.is_plain and not is_row_wise(column.expr, schema):
        raise Failure(
            "invalid_key",
            f'Key "{column.name}" does not depend on its own row alone: {column.expr}.',
            hint="Use an expression that is worked out row by row, without aggregation, window or shift.",
        )
    if dtype in (pl.Categorical, pl.Enum):
        return column.expr.cast(pl.String), pl.String()
    if dtype.is_float():
        # Both zeros are one group, and every NaN is one.
        return column.expr + 0.0, dtype
    return column.expr, dtype


def common_dtype(*dtypes: pl.DataType) -> pl.DataType:
    """The type in which values of these types are compared. Raises PolarsError where there is none."""
    return pl.concat([pl.DataFrame(schema={"k": dtype}) for dtype in dtypes], how="vertical_relaxed").schema["k"]


def is_row_wise(expr: pl.Expr, schema: pl.Schema) -> bool:
    """Whether Polars would move a filter on a source column below this expression, which it does only for what each row
    decides alone.
    """
    seen: list[bool] = []

    def probe(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Any:
        seen.append(predicate is not None)
        yield pl.DataFrame(schema=schema)

    probed = "__frazil_probe"
    source = register_io_source(probe, schema=schema).with_columns(expr.alias(probed))
    source.filter(pl.col(escape(schema.names()[0])).is_not_null()).collect()
    return bool(seen) and all(seen)


def to_texts(keys: pl.DataFrame) -> pl.DataFrame:
    """Every value as text: exact, and different for different values."""
    return keys.select(text_expr(name, dtype) for name, dtype in keys.schema.items())


def text_expr(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(escape(name))
    if isinstance(dtype, pl.Datetime):
        return column.dt.to_string("%Y-%m-%dT%H:%M:%S%.f%:z" if dtype.time_zone else "%Y-%m-%dT%H:%M:%S%.f")
    if isinstance(dtype, pl.Time):
        return column.dt.to_string("%H:%M:%S%.f")
    if isinstance(dtype, pl.Duration):
        return column.dt.to_string("iso")
    return column.cast(pl.String)


def to_physical(keys: pl.DataFrame) -> pl.DataFrame:
    """Values as text from which `from_physical` makes exactly the same values."""
    return pl.DataFrame([physical_texts(column) for column in keys.get_columns()])


def physical_texts(column: pl.Series) -> pl.Series:
    if column.dtype.is_temporal():
        return column.to_physical().cast(pl.String)
    if column.dtype.is_float():
        # The shortest text that makes the same number again.
        return pl.Series(column.name, [None if value is None else repr(value) for value in column], dtype=pl.String)
    return column.cast(pl.String)


def from_physical(rows: list[list[str | None]], schema: pl.Schema) -> pl.DataFrame:
    """Key values of what `to_physical` gave."""
    columns = []
    for index, (name, dtype) in enumerate(schema.items()):
        texts = pl.Series(name, [row[index] for row in rows], dtype=pl.String)
        if dtype.is_temporal():
            columns.append(texts.cast(pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype))
        elif dtype == pl.Boolean:
            columns.append(texts == "true")
        elif dtype.is_float():
            columns.append(pl.Series(name, [None if text is None else float(text) for text in texts], dtype=dtype))
        else:
            columns.append(texts.cast(dtype))
    return pl.DataFrame(columns)


def encode_token(values: list[str | None], sources: list[int]) -> str:
    """What a key task carries: its values, and the numbers of the sources in which they occur."""
    return json.dumps([values, sources], ensure_ascii=False, separators=(",", ":"))


def decode_token(token: str | None, width: int) -> tuple[list[str | None], list[int]]:
    try:
        values, sources = json.loads(token or "")
    except ValueError:
        raise Failure("invalid_request", "The token of a key task is not one that this engine made.") from None
    if len(values) != width:
        raise Failure("invalid_request", "The token of a key task is not one that this engine made.")
    return values, sources


def encode_schema(schema: pl.Schema) -> str:
    buffer = io.BytesIO()
    pl.DataFrame(schema=schema).write_ipc(buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_schema(text: str) -> pl.Schema:
    return pl.read_ipc(io.BytesIO(base64.b64decode(text)), use_pyarrow=False).schema
