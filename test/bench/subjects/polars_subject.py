"""Plain Polars on this machine: the least that the work can cost."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta

import polars as pl
from polars.testing import assert_frame_equal
from serve import serve
from workload import DAYS, check, run_plan, time_calls, trivial_frames, trivial_query


def warm(count: int, warmup: int) -> list[float]:
    query = trivial_query()
    return time_calls(query.collect, count, warmup)


def many_in_a_loop(count: int) -> dict[str, float]:
    frames = trivial_frames(count)
    started = time.perf_counter()
    outputs = [frame.collect() for frame in frames]
    finished = time.perf_counter() - started
    check(outputs, count)
    return {"finish": finished}


def many_in_processes(count: int, processes: int) -> dict[str, float]:
    """Plans in, outputs out, in as few messages as there are processes."""
    frames = trivial_frames(count)
    # Polars' threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        plans = [frame.serialize() for frame in frames]
        check(pool.map(run_plan, plans[:1000], chunksize=100), len(plans[:1000]))
        started = time.perf_counter()
        plans = [frame.serialize() for frame in frames]
        outputs = list(pool.map(run_plan, plans, chunksize=-(-count // processes)))
        finished = time.perf_counter() - started
    check(outputs, count)
    return {"finish": finished}


def make_days(path: str, rows: int) -> None:
    """A file of numbers that don't compress. Every day's rows are all over it, so that no part of it can be skipped."""
    number = pl.int_range(0, rows, dtype=pl.Int64)
    day = pl.date(2024, 1, 1) + pl.duration(days=pl.col("id").hash(0) % DAYS)
    values = [(pl.col("id").hash(seed).cast(pl.Float64) / 2**64).alias(f"value_{seed}") for seed in (1, 2, 3)]
    pl.select(number.alias("id")).lazy().with_columns(day.alias("day"), *values).sink_parquet(path)


def partitioned_in_a_loop(source: str, destination: str, days: list[int]) -> float:
    """Seconds for one filtered sink per day, of some of the days."""
    scan = pl.scan_parquet(source)
    started = time.perf_counter()
    for number in days:
        day = date(2024, 1, 1) + timedelta(days=number)
        path = f"{destination}/day={day}/part-0.parquet"
        scan.filter(pl.col("day") == day).sink_parquet(path, mkdir=True)
    return time.perf_counter() - started


def check_days(source: str, destination: str) -> None:
    """What was written is what was read: by day, the number of rows, and sums of them."""

    def by_day(scan: pl.LazyFrame) -> pl.DataFrame:
        sums = [pl.len(), pl.sum("id"), pl.sum("value_1").round(3)]
        return scan.group_by("day").agg(sums).sort("day").collect()

    written = by_day(pl.scan_parquet(f"{destination}/*/*.parquet", hive_partitioning=False))
    assert_frame_equal(written, by_day(pl.scan_parquet(source)))


if __name__ == "__main__":
    commands = (warm, many_in_a_loop, many_in_processes, make_days, partitioned_in_a_loop, check_days)
    serve({command.__name__: command for command in commands})
