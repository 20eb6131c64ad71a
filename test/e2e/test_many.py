"""Partitioned queries and many at once: each result is what local Polars gives for it."""

from pathlib import Path

import frazil as pc
import polars as pl
import pytest
from polars.testing import assert_frame_equal

pytestmark = pytest.mark.usefixtures("installation")

CONTEXT = pc.ComputeContext(cpus=2, memory=4)


def test_partitioned_by_an_expression(lineitem: Path, tmp_path: Path) -> None:
    scan = pl.scan_parquet(lineitem)
    year = pl.col("l_shipdate").dt.year()
    query = scan.group_by("l_returnflag").agg(pl.sum("l_quantity"), pl.len())
    result = query.remote(CONTEXT).partition_by(year.alias("year")).write_parquet(f"{tmp_path}/dst").await_result()
    years = scan.select(year.unique()).collect().to_series().sort().to_list()
    assert len(result) == len(years) == 7
    for value in years:
        expected = scan.filter(year == value).group_by("l_returnflag").agg(pl.sum("l_quantity"), pl.len()).collect()
        actual = pl.read_parquet(tmp_path / "dst" / f"year={value}" / "part-0.parquet")
        assert_frame_equal(actual, expected, check_row_order=False)
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == [f"year={value}" for value in years]


def test_odd_keys_get_a_place_of_their_own(tmp_path: Path) -> None:
    keys = ["a/b", "a%2Fb", "..", "", " ", "ünï/çødé", "a=b", None, "x" * 300]
    frame = pl.DataFrame({"key": keys * 2, "value": list(range(len(keys) * 2))})
    result = frame.lazy().remote(CONTEXT).partition_by("key").write_parquet(f"{tmp_path}/dst").await_result()
    assert len(result) == len(keys)
    for one in result:
        key = (one.key or {})["key"]
        expected = frame.filter(pl.col("key").eq_missing(pl.lit(key, dtype=pl.String)))
        assert_frame_equal(one.lazy().collect(), expected)
    assert len({tuple(one.locations) for one in result}) == len(keys)


def test_a_column_made_inside_the_query_is_no_key() -> None:
    query = pl.LazyFrame({"a": [1, 2]}).with_columns(b=pl.col("a") * 2)
    with pytest.raises(pc.FrazilError, match="b"):
        query.remote(CONTEXT).partition_by("b").execute().await_result()


def test_too_many_keys_are_refused_with_the_limit() -> None:
    query = pl.LazyFrame({"a": list(range(100))})
    with pytest.raises(pc.FrazilError, match="max_keys"):
        query.remote(CONTEXT).partition_by("a", max_keys=10).execute().await_result()


def test_spawn_many_in_order_with_identical_plans(tmp_path: Path) -> None:
    frames = [pl.LazyFrame({"n": [n % 5]}).select(pl.col("n") * 2) for n in range(50)]
    result = pc.spawn_many(frames, dst=f"{tmp_path}/dst", context=CONTEXT).await_result()
    assert [one.lazy().collect().item() for one in result] == [n % 5 * 2 for n in range(50)]
    assert (tmp_path / "dst" / "frame=49" / "part-0.parquet").exists()


def test_spawn_many_by_a_key(tmp_path: Path) -> None:
    frame = pl.DataFrame({"day": ["mon", "tue", "mon"], "v": [1, 2, 3]})
    frames = [frame.lazy().select(pl.sum("v") * n) for n in (1, 10)]
    result = pc.spawn_many(frames, partition_by="day", dst=f"{tmp_path}/dst/", context=CONTEXT).await_result()
    got = {(one.frame, (one.key or {})["day"]): one.lazy().collect().item() for one in result}
    assert got == {(0, "mon"): 4, (0, "tue"): 2, (1, "mon"): 40, (1, "tue"): 20}


def test_some_fail_and_the_rest_go_on_and_a_retry_runs_only_those(tmp_path: Path) -> None:
    source = tmp_path / "later.parquet"
    frames = [pl.LazyFrame({"n": [n]}) for n in range(8)] + [
        pl.scan_parquet(source),
        pl.scan_parquet(source).select("n"),
    ]
    in_progress = pc.spawn_many(frames, context=CONTEXT)
    with pytest.raises(pc.QueriesFailed) as caught:
        in_progress.await_result()
    assert sum(group.count for group in caught.value.groups) == 2
    assert len(list(caught.value.results)) == 8
    pl.DataFrame({"n": [99]}).write_parquet(source)
    retried = in_progress.retry().await_result()
    assert [one.frame for one in retried] == [8, 9]
    assert [one.lazy().collect().item() for one in retried] == [99, 99]


def test_cancelling_all_of_them() -> None:
    def slow(value: int) -> int:
        import time

        time.sleep(30)
        return value

    frames = [pl.LazyFrame({"n": [n]}).select(pl.col("n").map_elements(slow, return_dtype=pl.Int64)) for n in range(20)]
    in_progress = pc.spawn_many(frames, context=CONTEXT)
    in_progress.cancel()
    with pytest.raises(pc.QueryCancelled):
        in_progress.await_result(timeout=10)
    # The slots are free again at once: another query does not wait 30 s.
    assert pl.LazyFrame({"a": [1]}).remote(CONTEXT).collect().item() == 1
