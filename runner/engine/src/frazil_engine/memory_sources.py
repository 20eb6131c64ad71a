"""Sources that are held in memory: a plan refers to them by a token, so that their data does not travel through plan
bytes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import polars as pl
from polars.io.plugins import register_io_source

from frazil_engine.carriers import columns

BATCH_ROWS = 100_000
frames: dict[str, pl.DataFrame] = {}
# Tokens of frames of which a query has asked for more columns than they hold.
too_narrow: set[str] = set()
numbers = itertools.count()


class ColumnsMissing(Exception):
    """The query reads columns of a held source that were not foreseen."""


def hold(frame: pl.DataFrame) -> str:
    """Keeps a frame until `release`. Gives its token."""
    token = str(next(numbers))
    frames[token] = frame
    return token


def release_all() -> None:
    frames.clear()
    too_narrow.clear()


def release(token: str) -> None:
    frames.pop(token, None)


def scan_held(token: str, schema: pl.Schema) -> pl.LazyFrame:
    """A scan of a held frame. `schema` is the one of the source that it stands for; the frame holds only the columns
    that the query needs.
    """
    return register_io_source(functools.partial(read_held, token), schema=schema, is_pure=True)


def read_held(
    token: str, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
) -> Iterator[pl.DataFrame]:
    """The generator that Polars reads. It limits the rows before it filters them, as Polars expects."""
    frame = frames[token]
    if with_columns is not None and not set(with_columns) <= set(frame.columns):
        too_narrow.add(token)
        raise ColumnsMissing(", ".join(with_columns))
    if n_rows is not None:
        frame = frame.head(n_rows)
    if predicate is not None:
        frame = frame.filter(predicate)
    # Without a column a frame has no rows to count; then those it has stay.
    if with_columns:
        frame = frame.select(columns(with_columns))
    yield from frame.iter_slices(BATCH_ROWS) if frame.height else [frame]
