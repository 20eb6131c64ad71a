"""The announcement's query on TPC-H lineitem, in the three modes: once, once per key, and many at once.

Run it with ``npm run demo``, or against any installation:
``python examples/demo.py lineitem.parquet output-directory``.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import frazil as pc
import polars as pl

TIMINGS: list[tuple[str, float]] = []


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    started = time.perf_counter()
    yield
    TIMINGS.append((title, time.perf_counter() - started))


def percentiles(context: pc.ComputeContext) -> str:
    """Round trips through the whole system: client, control plane, Postgres, node, engine, and back."""
    trivial = pl.LazyFrame({"a": [1, 2, 3]}).select(pl.sum("a"))
    times = []
    for _ in range(50):
        started = time.perf_counter()
        assert trivial.remote(context).collect().item() == 6
        times.append((time.perf_counter() - started) * 1000)
    times.sort()
    return f"p50 {times[24]:.1f} ms, p90 {times[44]:.1f} ms"


def main(source: str, output: str) -> None:
    context = pc.ComputeContext()
    lineitem = pl.scan_parquet(source)
    query = (
        lineitem.filter(pl.col("l_shipdate") <= date(1998, 9, 2))
        .group_by("l_returnflag", "l_linestatus")
        .agg(avg_price=pl.mean("l_extendedprice"), avg_disc=pl.mean("l_discount"), count_order=pl.len())
    )

    with step("One query, from a cold start"):
        in_progress = query.remote(context).write_parquet(f"{output}/summary/", mode="overwrite")
        result = in_progress.await_result()
        print(result)

    with step("Going on with the result"):
        print(result.lazy().select(pl.sum("count_order").alias("orders")).collect())

    with step("The same query again, warm"):
        query.remote(context).write_parquet(f"{output}/summary/", mode="overwrite").await_result()

    with step("A trivial query, warm, 50 times"):
        print(f"{percentiles(context)} from submission to the result in hand")

    with step("Partitioned: once per year of shipping"):
        per_year = (
            lineitem.group_by("l_returnflag")
            .agg(revenue=pl.sum("l_extendedprice"), orders=pl.len())
            .remote(context)
            .partition_by(pl.col("l_shipdate").dt.year().alias("year"))
            .write_parquet(f"{output}/per-year/", mode="overwrite")
            .await_result()
        )
        print(f"{len(per_year)} results")
        print(per_year)

    with step("spawn_many: 200 frames at once"):
        frames = [
            lineitem.filter(pl.col("l_suppkey") % 200 == n).select(supplier_group=pl.lit(n), orders=pl.len())
            for n in range(200)
        ]
        many = pc.spawn_many(frames, context=context).await_result()
        rows = sum(result.lazy().collect().item(0, "orders") for result in many)
        print(f"{len(many)} results, {rows:,} rows counted")

    print("\n== Summary")
    for title, seconds in TIMINGS:
        print(f"{seconds:7.2f} s  {title}")
    print(
        "\nWhere to look next: README.md for the quickstart, docs/ for concepts,"
        " `npm run dev` to keep a server running."
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
