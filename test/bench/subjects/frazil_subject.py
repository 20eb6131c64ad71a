"""Frazil through its Python client."""

import os
import sys
import time
from collections.abc import Callable

import cloudpickle
import frazil as pc
import polars as pl
from serve import serve
from workload import DAYS, TRIVIAL_ANSWER, check, endless, time_calls, time_cancels, trivial_frames, trivial_query

CONTEXT = pc.ComputeContext(cpus=2, memory=2)
PARTITIONED_MEMORY_GIB = 8


def warm(count: int, warmup: int) -> list[float]:
    query = trivial_query()
    return time_calls(lambda: query.remote(CONTEXT).collect(), count, warmup)


def many(count: int) -> dict[str, float]:
    """Seconds from submission to the job's end, and to all outputs in hand and checked."""
    frames = trivial_frames(count)
    started = time.perf_counter()
    in_progress = pc.spawn_many(frames, context=CONTEXT)
    submitted = time.perf_counter()
    results = in_progress.await_result()
    finished = time.perf_counter()
    check((result.collect() for result in results), count)
    checked = time.perf_counter()
    return {"submit": submitted - started, "finish": finished - started, "check": checked - started}


def cancel(count: int) -> list[float]:
    def start(marks: str) -> Callable[[], object]:
        query = trivial_query().map_batches(lambda frame: (endless(marks), frame)[1])
        return query.remote(CONTEXT).execute().cancel

    return time_cancels(start, count)


def connect(address: str, token: str) -> None:
    """To a server that was started after this process."""
    os.environ.update(FRAZIL_ADDRESS=address, FRAZIL_TOKEN=token)


def first_result(memory: float) -> float:
    """Seconds until the first result from machines of a shape that no other query asked for."""
    started = time.perf_counter()
    output = trivial_query().remote(pc.ComputeContext(cpus=1, memory=memory)).collect()
    elapsed = time.perf_counter() - started
    if output.item() != TRIVIAL_ANSWER:
        raise AssertionError(f"the query gave {output}")
    return elapsed


def partitioned(source: str, destination: str) -> float:
    """Seconds for a partition per day, each a file."""
    context = pc.ComputeContext(cpus=2, memory=PARTITIONED_MEMORY_GIB)
    started = time.perf_counter()
    query = pl.scan_parquet(source).remote(context).partition_by("day")
    result = query.write_parquet(destination, mode="overwrite").await_result()
    elapsed = time.perf_counter() - started
    if len(result) != DAYS:
        raise AssertionError(f"{len(result)} of {DAYS} partitions")
    return elapsed


# Travels with a query: the engine does not have it.
cloudpickle.register_pickle_by_value(sys.modules["workload"])
serve(
    {
        "warm": warm,
        "many": many,
        "cancel": cancel,
        "connect": connect,
        "first_result": first_result,
        "partitioned": partitioned,
    },
)
