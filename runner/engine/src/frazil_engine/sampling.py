"""Reads sources in batches: their distinct keys, their size, and the whole of them as far as it fits."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from frazil_engine.errors import Failure

SAMPLED_ROWS = 10_000
BATCH_ROWS = 100_000


def for_each_batch(frame: pl.LazyFrame, use: Callable[[pl.DataFrame], bool]) -> None:
    """Hands the frame's rows over in batches, in their order, until `use` says True. What `use` raises comes out as it
    is.
    """
    raised: list[BaseException] = []

    def take(batch: pl.DataFrame) -> bool:
        try:
            return use(batch)
        except BaseException as error:
            raised.append(error)
            return True

    frame.sink_batches(take, chunk_size=BATCH_ROWS, maintain_order=True, engine="streaming")
    if raised:
        raise raised[0]


class DistinctRows:
    """The distinct rows of what is added, of which no more than `limit` are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rows_seen = 0
        self.distinct: pl.DataFrame | None = None

    @property
    def is_over(self) -> bool:
        return self.distinct is not None and self.distinct.height > self._limit

    def add(self, batch: pl.DataFrame) -> bool:
        """True once there are more than the limit."""
        self.rows_seen += batch.height
        found = batch.unique()
        self.distinct = found if self.distinct is None else pl.concat([self.distinct, found]).unique()
        return self.is_over


def read_distinct(frame: pl.LazyFrame, limit: int) -> DistinctRows:
    """Stops reading once there are more distinct rows than the limit."""
    rows = DistinctRows(limit)
    for_each_batch(frame, rows.add)
    if rows.distinct is None:
        rows.distinct = pl.DataFrame(schema=frame.collect_schema())
    return rows


def too_many_keys(limit: int) -> Failure:
    return Failure(
        "limit_exceeded",
        f"The key has more than {limit:,} distinct values, the limit max_keys of this job.",
        hint=f"Raise it where so many results are meant: partition_by(..., max_keys={limit * 10}). "
        "Or take a coarser key, such as a month instead of a day.",
    )


def row_bytes(frame: pl.LazyFrame) -> float:
    """Bytes in memory of one row, from the first rows."""
    sample = frame.head(SAMPLED_ROWS).collect(engine="streaming")
    return sample.estimated_size() / sample.height if sample.height else 0.0


def read_up_to(frame: pl.LazyFrame, bytes_max: int) -> pl.DataFrame | None:
    """The whole frame in its order, or None when it is larger than that in memory."""
    batches: list[pl.DataFrame] = []
    size = 0

    def add(batch: pl.DataFrame) -> bool:
        nonlocal size
        batches.append(batch)
        size += batch.estimated_size()
        return size > bytes_max

    for_each_batch(frame, add)
    if size > bytes_max:
        return None
    return pl.concat(batches) if batches else pl.DataFrame(schema=frame.collect_schema())
