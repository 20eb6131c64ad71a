"""Dask distributed: one task per frame, the plan in and the output out, two workers of one thread each."""

import os
import time

# Workers get this process's environment.
os.environ["POLARS_MAX_THREADS"] = "1"

import distributed  # pyright: ignore[reportMissingImports]
from serve import serve
from workload import check, run_plan, time_calls, trivial_frames, trivial_query

WORKERS = 2


def main() -> None:
    cluster = distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    client = distributed.Client(cluster)

    def warm(count: int, warmup: int) -> list[float]:
        query = trivial_query()
        return time_calls(lambda: client.submit(run_plan, query.serialize(), pure=False).result(), count, warmup)

    def many(count: int) -> dict[str, float]:
        frames = trivial_frames(count)
        started = time.perf_counter()
        outputs = client.gather(client.map(run_plan, [frame.serialize() for frame in frames], pure=False))
        finished = time.perf_counter() - started
        check(outputs, count)
        return {"finish": finished}

    serve({"warm": warm, "many": many})
    client.close()
    cluster.close()


if __name__ == "__main__":
    main()
