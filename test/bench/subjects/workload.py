"""What every subject runs, and what has to come out of it."""

import io
import time
from collections.abc import Callable, Iterable

import polars as pl


def trivial_query() -> pl.LazyFrame:
    return pl.LazyFrame({"a": [1, 2, 3]}).select(pl.sum("a"))


TRIVIAL_ANSWER = 6
DAYS = 365


def trivial_frames(count: int) -> list[pl.LazyFrame]:
    """Frames of which no two have the same plan."""
    return [pl.LazyFrame({"n": [n]}).select(pl.col("n") * 3 + n) for n in range(count)]


def check(outputs: Iterable[pl.DataFrame], count: int) -> None:
    """Every output, in the order of the frames."""
    seen = 0
    for n, output in enumerate(outputs):
        if output.to_dict(as_series=False) != {"n": [4 * n]}:
            raise AssertionError(f"frame {n} gave {output}")
        seen += 1
    if seen != count:
        raise AssertionError(f"{seen} of {count} outputs")


def run_plan(plan: bytes) -> pl.DataFrame:
    """What a worker of any system does with a plan."""
    return pl.LazyFrame.deserialize(io.BytesIO(plan)).collect()


def time_calls(call: Callable[[], pl.DataFrame], count: int, warmup: int) -> list[float]:
    """Milliseconds of each call, after some that don't count."""
    times = []
    for number in range(warmup + count):
        started = time.perf_counter()
        output = call()
        elapsed = time.perf_counter() - started
        if output.item() != TRIVIAL_ANSWER:
            raise AssertionError(f"the query gave {output}")
        if number >= warmup:
            times.append(elapsed * 1000)
    return times
