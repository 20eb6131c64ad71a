"""What every subject runs, and what has to come out of it."""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl


def trivial_query() -> pl.LazyFrame:
    return pl.LazyFrame({"a": [1, 2, 3]}).select(pl.sum("a"))


TRIVIAL_ANSWER = 6
DAYS = 365
POLL_SECONDS = 0.001


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


def endless(marks: str) -> None:
    """Says in which process it runs, and goes on for an hour."""
    with open(f"{marks}/{os.getpid()}", "w"):
        pass
    time.sleep(3_600)


def time_cancels(start: Callable[[str], Callable[[], object]], count: int) -> list[float]:
    """Milliseconds from each cancel until the process that ran it has ended.

    `start` begins an `endless`, and gives what cancels it.
    """
    times = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as marks:
            cancel = start(marks)
            while not os.listdir(marks):
                time.sleep(POLL_SECONDS)
            process = int(os.listdir(marks)[0])
            started = time.perf_counter()
            cancel()
            while is_alive(process):
                time.sleep(POLL_SECONDS)
            times.append((time.perf_counter() - started) * 1000)
    return times


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
