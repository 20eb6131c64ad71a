"""Partitioned jobs against their reference: local Polars with the keyed scans filtered to one value."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import SOURCE, Engine
from partitioned import LARGE_MEMORY, SMALL_MEMORY, python_source, run, split
from polars.testing import assert_frame_equal

Sources = dict[str, pl.LazyFrame]
Query = Callable[[Sources], pl.LazyFrame]
DAYS = [date(2024, 1, 1) + timedelta(days=number) for number in range(4)]


def frames() -> dict[str, pl.DataFrame]:
    """`sales` and `returns` have the key `day`; `shops` does not."""
    rows = 400
    sales = pl.DataFrame(
        {
            "day": [None if number % 50 == 7 else DAYS[number * 7 % 3] for number in range(rows)],
            "shop": [number % 5 for number in range(rows)],
            "item": [f"item {number % 11}" for number in range(rows)],
            "amount": [number * 1.25 for number in range(rows)],
            "unused": [[number] for number in range(rows)],
        }
    )
    returns = pl.DataFrame(
        {
            "day": [DAYS[number % 4] for number in range(60)],
            "shop": [number % 7 for number in range(60)],
            "lost": range(60),
        }
    )
    shops = pl.DataFrame({"shop": range(6), "city": ["Ulm", "Bonn", "Ulm", "Kiel", "Bonn", "Jena"]})
    return {"sales": sales, "returns": returns, "shops": shops}


QUERIES: dict[str, Query] = {
    "a filter": lambda s: s["sales"].filter(pl.col("amount") > 100).select("item", "amount"),
    "rows in order": lambda s: s["sales"].with_row_index().select("index", "amount"),
    "rows in order after a filter": lambda s: (
        s["sales"].filter(pl.col("shop") > 1).with_row_index(offset=3).select("index", "amount")
    ),
    "aggregation": lambda s: s["sales"].group_by("shop").agg(pl.col("amount").sum(), pl.len()).sort("shop"),
    "only a count": lambda s: s["sales"].select(pl.len()),
    "window": lambda s: s["sales"].select(
        pl.col("amount").rank(), share=pl.col("amount") / pl.col("amount").sum().over("shop")
    ),
    "mean in a filter": lambda s: s["sales"].filter(pl.col("amount") > pl.col("amount").mean()).select("amount"),
    "sort and slice": lambda s: s["sales"].sort("amount", descending=True).head(3),
    "slice first": lambda s: s["sales"].slice(2, 5),
    "distinct": lambda s: s["sales"].select("item").unique().sort("item"),
    "position of a column": lambda s: s["sales"].select(pl.nth(3), pl.last().list.len()),
    "columns by type": lambda s: s["sales"].select(pl.col(pl.Float64)).sum(),
    "drop a column": lambda s: s["sales"].drop("unused", "item").sum(),
    "the key itself": lambda s: s["sales"].select(pl.col("day").n_unique(), first=pl.col("day").first()),
    "join with a whole source": lambda s: (
        s["sales"].join(s["shops"], on="shop").group_by("city").agg(pl.col("amount").sum()).sort("city")
    ),
    "whole source first": lambda s: (
        s["shops"].join(s["sales"], on="shop", how="left").select("city", "amount", "day").sort("city", "amount")
    ),
    "anti join": lambda s: s["shops"].join(s["sales"].filter(pl.col("amount") > 480), on="shop", how="anti"),
    "join of two keyed sources": lambda s: (
        s["sales"].join(s["returns"], on="shop", how="full", coalesce=True).select(pl.len(), pl.col("lost").sum())
    ),
    "self join": lambda s: (
        s["sales"]
        .join(s["sales"].group_by("item").agg(top=pl.col("amount").max()), on="item")
        .select(pl.col("top").sum())
    ),
    "union": lambda s: (
        pl.concat([s["sales"].select("shop"), s["returns"].select("shop"), s["shops"].select("shop")])
        .group_by("shop")
        .len()
        .sort("shop")
    ),
    "union of one source": lambda s: pl.concat([s["sales"], s["sales"].filter(pl.col("shop") == 1)]).select("amount"),
    "nested plans": lambda s: pl.concat(
        [s["sales"].join(pl.concat([s["shops"], s["shops"]]).unique(), on="shop", how="semi"), s["sales"].head(1)]
    ).select(pl.col("amount").sum()),
    "two filters": lambda s: pl.concat(
        [s["sales"].filter(pl.col("shop") == 1), s["sales"].filter(pl.col("shop") == 2)]
    ).select("shop", "amount"),
    "a filter that fails for another key": lambda s: (
        s["sales"].filter(pl.col("item").str.slice(5).cast(pl.Int64) > 3).select("item")
    ),
    "function per row": lambda s: s["sales"].select(
        pl.col("amount").map_elements(lambda value: value + 0.5, return_dtype=pl.Float64)
    ),
    "function per frame": lambda s: s["sales"].map_batches(
        lambda frame: frame.select(pl.col("amount").sum()), schema={"amount": pl.Float64}
    ),
    "function per group": lambda s: (
        s["sales"]
        .group_by("shop")
        .map_groups(lambda group: group.sort("amount").tail(1), schema=s["sales"].collect_schema())
        .sort("shop")
    ),
    "cache": lambda s: s["sales"].cache().select(pl.col("amount").sum()),
    "horizontal": lambda s: pl.concat(
        [s["sales"].select(pl.col("amount").sum()), s["shops"].select(pl.len())], how="horizontal"
    ),
    "pivot": lambda s: (
        s["sales"]
        .group_by("shop")
        .agg([pl.col("amount").filter(pl.col("item") == name).sum().alias(name) for name in ("item 1", "item 2")])
        .sort("shop")
    ),
}
KEYED = {"sales", "returns"}


def lay(tmp_path: Path, kind: str) -> Sources:
    """The frames as sources of a kind."""
    made: Sources = {}
    for name, frame in frames().items():
        if kind == "memory":
            made[name] = frame.lazy()
        elif kind == "python":
            made[name] = python_source(frame)
        else:
            frame.write_parquet(tmp_path / f"{name}.parquet", row_group_size=64)
            made[name] = pl.scan_parquet(tmp_path / f"{name}.parquet")
    return made


def expected(query: Query, value: Any) -> pl.DataFrame:
    same = pl.col("day").eq_missing(pl.lit(value, dtype=pl.Date))
    filtered = {name: frame.lazy().filter(same) if name in KEYED else frame.lazy() for name, frame in frames().items()}
    return query(filtered).collect()


def values_of(query: Query) -> set[Any]:
    """The union of the values in the keyed sources that the query reads."""
    used: set[str] = set()

    class Watched(dict[str, pl.LazyFrame]):
        def __getitem__(self, name: str) -> pl.LazyFrame:
            used.add(name)
            return super().__getitem__(name)

    query(Watched({name: frame.lazy() for name, frame in frames().items()}))
    return {value for name in used & KEYED for value in frames()[name].get_column("day").unique()}


@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
@pytest.mark.parametrize("name", list(QUERIES))
def test_every_key_equals_the_filtered_query(
    engine: Engine, results: Path, tmp_path: Path, name: str, memory: int
) -> None:
    query = QUERIES[name]
    job = run(engine, results, query(lay(tmp_path, "parquet")), "day", memory=memory)
    found = {
        None if key.values["day"] is None else date.fromisoformat(key.values["day"]): key.frame for key in job.keys
    }
    assert set(found) == values_of(query)
    for value, frame in found.items():
        assert_frame_equal(frame, expected(query, value))
    assert (job.split["splitState"]["pieces"] is None) == (memory == LARGE_MEMORY)
    assert (results / "job_1" / ".pieces").exists() == (memory == SMALL_MEMORY)


@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
@pytest.mark.parametrize("kind", ["memory", "python"])
@pytest.mark.parametrize(
    "name", ["a filter", "join with a whole source", "self join", "union", "only a count", "nested plans"]
)
def test_every_kind_of_source_is_keyed(
    engine: Engine, results: Path, tmp_path: Path, name: str, kind: str, memory: int
) -> None:
    query = QUERIES[name]
    job = run(engine, results, query(lay(tmp_path, kind)), "day", memory=memory)
    found = {
        None if key.values["day"] is None else date.fromisoformat(key.values["day"]): key.frame for key in job.keys
    }
    assert set(found) == values_of(query)
    for value, frame in found.items():
        assert_frame_equal(frame, expected(query, value))


@pytest.mark.smoke
def test_sql_is_keyed_like_any_query(engine: Engine, results: Path, tmp_path: Path) -> None:
    lay(tmp_path, "parquet")
    sql = (
        f"SELECT city, SUM(amount) AS total FROM read_parquet('{tmp_path}/sales.parquet') AS sales "
        f"JOIN read_parquet('{tmp_path}/shops.parquet') AS shops ON sales.shop = shops.shop GROUP BY city ORDER BY city"
    )
    job = run(engine, results, sql, "day")
    for key in job.keys:
        value = None if key.values["day"] is None else date.fromisoformat(key.values["day"])
        wanted = expected(QUERIES["join with a whole source"], value).rename({"amount": "total"})
        assert_frame_equal(key.frame, wanted)
    assert len(job.keys) == 4


@pytest.mark.smoke
@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
def test_several_keys_at_once(engine: Engine, results: Path, tmp_path: Path, memory: int) -> None:
    sources = lay(tmp_path, "parquet")
    query = sources["sales"].join(sources["returns"], on="shop", how="left").select("amount", "lost")
    month = pl.col("item").str.slice(5).alias("number")
    job = run(engine, results, query, "day", month, memory=memory)
    data = frames()
    keys = data["sales"].select("day", month).unique().rows()
    assert len(job.keys) == len(keys)
    for key in job.keys:
        value = pl.lit(None if key.values["day"] is None else date.fromisoformat(key.values["day"]), dtype=pl.Date)
        left = data["sales"].lazy().filter(pl.col("day").eq_missing(value), month == key.values["number"])
        right = data["returns"].lazy().filter(pl.col("day").eq_missing(value))
        assert_frame_equal(
            key.frame, left.join(right, on="shop", how="left").select("amount", "lost").collect(), check_row_order=False
        )


def events(column: pl.Series) -> pl.LazyFrame:
    """Numbered rows, with their place in one of two keys."""
    return pl.DataFrame({"day": column, "event": range(len(column))}).lazy()


# What the key `day` of `sales` is, `day` of `events`, and which events each of its values has.
UNLIKE_TYPES: dict[str, tuple[pl.Series, pl.Series, list[list[int]]]] = {
    "a moment is no day": (
        pl.Series(DAYS[:2]),
        pl.Series([datetime(2024, 1, 1), datetime(2024, 1, 1, 13), datetime(2024, 1, 2), None]),
        [[0], [2]],
    ),
    "a fraction is no integer": (pl.Series([1, 2]), pl.Series([1.0, 1.5, 2.0, 2.5, float("nan")]), [[0], [2]]),
    "a number too large": (pl.Series([1, None], dtype=pl.Int32), pl.Series([2**40, 1, None]), [[2], [1]]),
    "a text that is no number": (pl.Series([1, 2]), pl.Series(["x", "2", "1", "01"]), [[2], [1]]),
    "a finer decimal": (
        pl.Series([Decimal("1.5"), Decimal("2.0")]),
        pl.Series([Decimal("1.50"), Decimal("1.51"), Decimal("2.00")]),
        [[0], [2]],
    ),
}


@pytest.mark.smoke
@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("case", list(UNLIKE_TYPES))
def test_a_source_with_some_of_the_keys_is_compared_in_the_common_type(
    engine: Engine, results: Path, case: str, is_held: bool, memory: int
) -> None:
    days, others, wanted = UNLIKE_TYPES[case]
    sales = pl.DataFrame({"day": days, "shop": ["a"] * len(days), "amount": 1}).lazy()
    query = sales.select("amount").join(events(others).select("event"), how="cross").select("event")
    # Too little memory for the key run alone: its source is filtered.
    job = run(engine, results, query, "day", "shop", memory=memory, memoryBytes=memory if is_held else SMALL_MEMORY)
    assert [key.frame.get_column("event").to_list() for key in job.keys] == wanted


@pytest.mark.parametrize(
    ("day", "other"),
    [(True, date(2024, 1, 1)), (datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=timezone.utc))],
    ids=["boolean and date", "with and without a zone"],
)
def test_keys_that_can_not_be_compared_are_refused(engine: Engine, results: Path, day: Any, other: Any) -> None:
    sales = pl.LazyFrame({"day": [day], "shop": ["a"]})
    for keys in (("day", "shop"), ("day",)):
        query = sales.select("shop").join(events(pl.Series([other])).select("event"), how="cross")
        error = split(engine, results, query, *keys).one("failed")["error"]
        assert error["code"] == "invalid_key" and '"day"' in error["message"]
        assert str(pl.Series([day]).dtype) in error["message"] and str(pl.Series([other]).dtype) in error["message"]


def test_keys_that_stand_in_different_sources_are_refused(engine: Engine, results: Path, tmp_path: Path) -> None:
    sources = lay(tmp_path, "parquet")
    query = sources["returns"].join(sources["shops"], on="shop")
    error = split(engine, results, query, "day", "city").one("failed")["error"]
    assert error["code"] == "invalid_key" and "single source" in error["message"]


WRONG_NEEDS = """
import frazil_engine.keyed_plans as keyed_plans
keyed_plans.projections = lambda frame, tokens: {token: [] for token in tokens}
"""


def test_columns_that_were_not_foreseen_are_read_after_all(results: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_NEEDS)
    with Engine(env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"}) as engine:
        query = QUERIES["join with a whole source"]
        job = run(engine, results, query(lay(tmp_path, "parquet")), "day")
        for key in job.keys:
            value = None if key.values["day"] is None else date.fromisoformat(key.values["day"])
            assert_frame_equal(key.frame, expected(query, value))
        assert len(job.keys) == 4
