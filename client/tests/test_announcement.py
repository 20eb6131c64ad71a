"""The calls that the announcement shows run as they are written."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from fake_server import FakeServer
from polars.testing import assert_frame_equal

import frazil as pc


@pytest.fixture
def query(tmp_path: Path) -> pl.LazyFrame:
    pl.DataFrame(
        {
            "l_shipdate": [date(1998, 1, 1), date(1998, 9, 2), date(1998, 9, 3), date(1997, 5, 5)],
            "l_returnflag": ["A", "N", "A", "A"],
            "l_linestatus": ["F", "O", "F", "F"],
            "l_extendedprice": [10.0, 20.0, 30.0, 40.0],
            "l_discount": [0.1, 0.2, 0.3, 0.4],
        }
    ).write_parquet(tmp_path / "lineitem.parquet")
    return (
        pl.scan_parquet(tmp_path / "lineitem.parquet")
        .filter(pl.col("l_shipdate") <= date(1998, 9, 2))
        .group_by("l_returnflag", "l_linestatus")
        .agg(
            avg_price=pl.mean("l_extendedprice"),
            avg_disc=pl.mean("l_discount"),
            count_order=pl.len(),
        )
    )


def test_a_remote_query_is_fired_awaited_printed_and_scanned_again(
    server: FakeServer, query: pl.LazyFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    in_progress = query.remote(pc.ComputeContext(cpus=16, memory=64)).write_parquet("s3://my-dst/")
    assert isinstance(in_progress, pc.InProgressQueryRemote)
    result = in_progress.await_result()
    print(result)
    new_lf: pl.LazyFrame = result.lazy()

    expected = pl.DataFrame(
        {
            "l_returnflag": ["A", "N"],
            "l_linestatus": ["F", "O"],
            "avg_price": [25.0, 20.0],
            "avg_disc": [0.25, 0.2],
            "count_order": pl.Series([2, 1], dtype=pl.UInt32),
        }
    )
    assert_frame_equal(new_lf.sort("l_returnflag").collect(), expected)
    printed = capsys.readouterr().out
    assert "shape: (2, 5)" in printed
    assert "l_returnflag" in printed
    (job,) = server.submitted()
    assert job.spec["context"] == {"cpus": 16, "memoryGiB": 64}
    assert job.spec["output"]["destination"] == "s3://my-dst/"


def test_distributed_is_offered_and_the_servers_refusal_is_shown(server: FakeServer, query: pl.LazyFrame) -> None:
    with pytest.raises(pc.NotAvailable, match="does not run distributed queries yet") as raised:
        query.remote().distributed().write_parquet().await_result()
    assert raised.value.code == "not_available"
    assert isinstance(raised.value, NotImplementedError)
    assert server.submitted() == []


def test_distributed_runs_where_the_server_offers_it(server: FakeServer, query: pl.LazyFrame) -> None:
    server.offered.add("distributed")
    result = query.remote(pc.ComputeContext(cpus=16, memory=64)).distributed().write_parquet().await_result()
    assert result.rows == 2
    assert server.submitted()[0].spec["scaling"] == "distributed"


def test_partition_by_gives_one_result_for_each_key(server: FakeServer, source: str, days: pl.DataFrame) -> None:
    lf = pl.scan_parquet(source)
    result = (
        lf.remote(pc.ComputeContext(cpus=16, memory=64, cluster_size=32))
        .partition_by("day")
        .write_parquet()
        .await_result()
    )
    assert len(result) == 3
    assert server.submitted()[0].spec["context"]["clusterSize"] == 32
    for day in ("2024-01-01", "2024-01-02", None):
        assert_frame_equal(result[day].lazy().collect(), days.filter(pl.col("day").eq_missing(pl.lit(day))))


def test_spawn_many_times_a_key_writes_each_frame_and_key(server: FakeServer, source: str, days: pl.DataFrame) -> None:
    lazy_frames = [pl.scan_parquet(source), pl.scan_parquet(source).with_columns(pl.col("value") * 2)]
    results = pc.spawn_many(lazy_frames, partition_by="day", dst="s3://result_dst/").await_result()
    assert len(results) == 6
    expected = days.filter(pl.col("day") == "2024-01-02").with_columns(pl.col("value") * 2)
    assert_frame_equal(results[1, "2024-01-02"].lazy().collect(), expected)
    (location,) = results[1, "2024-01-02"].locations
    assert location.endswith("result_dst/frame=1/day=2024-01-02/part-0.parquet")
    assert server.submitted()[0].spec["output"]["format"] == "parquet"
