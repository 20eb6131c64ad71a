"""Ray: one task per frame, the plan in and the output out, each worker on a core of its own."""

import time
from collections.abc import Callable

import ray  # pyright: ignore[reportMissingImports]
from serve import serve
from workload import check, endless, run_plan, time_calls, time_cancels, trivial_frames, trivial_query

CORES = 2
# As Ray does for NumPy: a worker that has one core starts one thread.
THREADS = {"env_vars": {"POLARS_MAX_THREADS": "1"}}

ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, runtime_env=THREADS)
run = ray.remote(run_plan)


def warm(count: int, warmup: int) -> list[float]:
    query = trivial_query()
    return time_calls(lambda: ray.get(run.remote(query.serialize())), count, warmup)


def many(count: int) -> dict[str, float]:
    frames = trivial_frames(count)
    started = time.perf_counter()
    outputs = ray.get([run.remote(frame.serialize()) for frame in frames])
    finished = time.perf_counter() - started
    check(outputs, count)
    return {"finish": finished}


def cancel(count: int) -> list[float]:
    def start(marks: str) -> Callable[[], object]:
        reference = ray.remote(endless).options(max_retries=0).remote(marks)
        return lambda: ray.cancel(reference, force=True)

    return time_cancels(start, count)


serve({"warm": warm, "many": many, "cancel": cancel})
