"""Plain Polars on this machine: the least that the work can cost."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from serve import serve
from workload import check, run_plan, time_calls, trivial_frames, trivial_query


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


if __name__ == "__main__":
    serve({"warm": warm, "many_in_a_loop": many_in_a_loop, "many_in_processes": many_in_processes})
