"""Frazil through its Python client."""

import time

import frazil as pc
from serve import serve
from workload import check, time_calls, trivial_frames, trivial_query

CONTEXT = pc.ComputeContext(cpus=2, memory=2)


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


serve({"warm": warm, "many": many})
