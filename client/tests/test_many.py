"""Many queries in one request, and their results together."""

from __future__ import annotations

import pickle
from datetime import date, datetime, time, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from fake_server import FakeServer
from polars.testing import assert_frame_equal

import frazil as pc
from frazil import _lines
from frazil._lines import CHUNK_BYTES, submission_lines
from frazil.results import RESULTS_PAGE_SIZE


def test_ten_thousand_frames_are_one_request_with_each_plan_once(server: FakeServer) -> None:
    server.jobs.gate.clear()
    templates = [pl.LazyFrame({"a": [number]}) for number in range(3)]
    built_again = [pl.LazyFrame({"a": [number]}) for number in range(3)]
    frames = [(templates if number % 2 else built_again)[number % 3] for number in range(10_000)]
    handle = pc.spawn_many(frames)
    assert server.paths() == ["POST /v1/jobs"]
    assert server.requests[0]["headers"]["Transfer-Encoding"] == "chunked"
    assert server.requests[0]["size"] < 100_000
    (job,) = server.submitted()
    server.jobs.wait(job, 20, revision=2)
    assert handle.progress().total == 10_000
    handle.cancel()


def test_the_request_is_made_in_small_pieces_whatever_its_size() -> None:
    frames = [pl.LazyFrame({"a": [number] * 1000, "b": range(1000)}) for number in range(200)]
    make = submission_lines(frames, lambda python: {"python": python})
    pieces = list(make())
    assert sum(map(len, pieces)) > 10 * CHUNK_BYTES
    largest_line = max(len(line) for piece in pieces for line in piece.splitlines())
    assert max(map(len, pieces)) <= CHUNK_BYTES + largest_line
    assert list(make()) == pieces  # A repeat sends the same.


def test_plans_are_made_while_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[pl.LazyFrame] = []
    monkeypatch.setattr(_lines, "serialise", lambda lf: made.append(lf) or lf.serialize())
    frames = [pl.LazyFrame({"a": range(number, number + 20_000)}) for number in range(50)]
    pieces = submission_lines(frames, lambda python: {"python": python})()
    made.clear()
    next(pieces)
    assert len(made) == 1
    assert sum(1 for _ in pieces) >= 48
    assert len(made) == 50


def test_the_header_says_whether_any_plan_carries_python(server: FakeServer) -> None:
    plain = pl.LazyFrame({"a": [1]})
    pc.spawn_many([plain, plain])
    pc.spawn_many([plain, plain.map_batches(lambda frame: frame)])
    first, second = server.submitted()
    assert first.spec["client"]["hasPython"] is False
    assert second.spec["client"]["hasPython"] is True


def test_results_are_indexed_iterated_and_united(server: FakeServer) -> None:
    count = RESULTS_PAGE_SIZE + 50
    results = pc.spawn_many_blocking([pl.LazyFrame({"a": [number]}) for number in range(count)])
    assert len(results) == count
    assert results.counts["succeeded"] == count
    assert [result.head.item() for result in results] == list(range(count))
    assert results[count - 1].frame == count - 1
    assert results[7].lazy().collect().item() == 7
    assert results.lazy().collect()["a"].to_list() == list(range(count))
    with_keys = results.lazy(with_keys=True).collect()
    assert_frame_equal(with_keys, pl.DataFrame({"a": range(count), "frame": range(count)}))
    with pytest.raises(KeyError, match="no such query"):
        results[count]
    with pytest.raises(KeyError, match="numbered"):
        results["first"]


def test_iterating_fetches_pages_as_they_are_needed(server: FakeServer) -> None:
    results = pc.spawn_many_blocking([pl.LazyFrame({"a": [1]})] * (RESULTS_PAGE_SIZE + 1))
    before = len(server.requests)
    pages = iter(results)
    next(pages)
    assert len(server.requests) == before + 1
    assert sum(1 for _ in pages) == RESULTS_PAGE_SIZE
    assert len(server.requests) == before + 2


def test_the_table_of_results_lists_them(server: FakeServer, source: str, days: pl.DataFrame) -> None:
    results = pl.scan_parquet(source).remote().partition_by("day").execute().await_result()
    table = results.table()
    expected = days.group_by("day").agg(rows=pl.len().cast(pl.Int64)).sort("day")
    assert_frame_equal(table.select(day="key_day", rows="rows").sort("day"), expected)
    assert table["locations"].list.len().to_list() == [1, 1, 1]
    assert "succeeded" in repr(results)
    assert "by day" in repr(results)
    assert "<table" in results._repr_html_()


def test_keys_are_found_by_value_or_text(server: FakeServer) -> None:
    lf = pl.LazyFrame(
        {"day": [date(2024, 1, 1), date(2024, 1, 2), None], "year": [1995, 1996, 1996], "ok": [True, False, True]}
    )
    by_day = lf.remote().partition_by("day").execute().await_result()
    assert by_day[date(2024, 1, 1)].head["year"].item() == 1995
    assert by_day["2024-01-02"].head["year"].item() == 1996
    assert by_day[None].key == {"day": None}
    by_year = lf.remote().partition_by("year").execute().await_result()
    assert by_year[1996].rows == 2
    by_both = lf.remote().partition_by("year", "ok").execute().await_result()
    assert by_both[1996, True].key == {"year": "1996", "ok": "true"}
    assert by_both[{"ok": False, "year": 1996}].rows == 1
    for wrong in (1997, (1996, True, 1), {"nope": 1}):
        with pytest.raises(KeyError):
            by_both[wrong]


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 1, 1, 3),
        datetime(2024, 1, 1, 3, 4, 5, 250_000),
        datetime(2024, 1, 1, 3, tzinfo=timezone.utc),
        time(1, 2, 3),
        time(1, 2, 3, 500),
        1.5,
        -7,
        Decimal("1.50"),
    ],
)
def test_a_key_of_any_type_is_found_by_its_value(server: FakeServer, value: object) -> None:
    results = pl.LazyFrame({"k": [value, None]}).remote().partition_by("k").execute().await_result()
    assert results[value].head.to_series().to_list() == [value]
    assert results[None].head.to_series().to_list() == [None]


def test_keys_are_added_only_where_the_results_lack_them(server: FakeServer, source: str) -> None:
    remote = pl.scan_parquet(source).select("value", "group").remote()
    results = remote.partition_by(initial=pl.col("group").str.head(1)).execute().await_result()
    united = results.lazy(with_keys=True).collect()
    assert united.columns == ["value", "group", "initial"]
    assert (united["group"] == united["initial"]).all()
    assert results.lazy().collect().columns == ["value", "group"]


def test_results_with_other_columns_are_united_as_asked(server: FakeServer) -> None:
    frames = [pl.LazyFrame({"a": [1]}), pl.LazyFrame({"a": [2]}), pl.LazyFrame({"a": [3], "b": ["x"]})]
    results = pc.spawn_many_blocking(frames)
    assert results.collect(how="diagonal").to_dict(as_series=False) == {"a": [1, 2, 3], "b": [None, None, "x"]}
    with pytest.raises(pl.exceptions.PolarsError):
        results.collect()


def test_partial_failure_raises_with_groups_and_keeps_the_others(server: FakeServer) -> None:
    good, bad = pl.LazyFrame({"a": [1]}), pl.LazyFrame({"a": [1]}).select("nope")
    also_bad = pl.LazyFrame({"a": ["x"]}).select(pl.col("a").str.to_integer(strict=True))
    handle = pc.spawn_many([good, bad, good, bad, also_bad])
    with pytest.raises(pc.QueriesFailed, match="3 of 5 queries") as raised:
        handle.await_result()
    error = raised.value
    assert [(group.count, group.frames) for group in error.groups] == [(2, (1, 3)), (1, (4,))]
    assert isinstance(error.groups[0].error, pl.exceptions.ColumnNotFoundError)
    assert "2 x ColumnNotFoundError" in str(error)
    assert [result.frame for result in error.results] == [0, 2]
    assert len(handle.await_result(raise_on_failure=False)) == 2
    assert [group.count for group in handle.failures()] == [2, 1]
    again = pickle.loads(pickle.dumps(error))
    assert len(again.results) == 2
    assert [group.count for group in again.groups] == [2, 1]


def test_a_frame_that_can_not_be_split_leaves_the_results_of_the_others(server: FakeServer) -> None:
    good, bad = pl.LazyFrame({"day": ["1", "2"]}), pl.LazyFrame({"a": [1]})
    handle = pc.spawn_many([good, bad], partition_by="day")
    with pytest.raises(pc.QueriesFailed, match="1 of 3 queries") as raised:
        handle.await_result()
    assert [(group.count, group.error.code) for group in raised.value.groups] == [(1, "invalid_key")]
    assert [result.key for result in raised.value.results] == [{"day": "1"}, {"day": "2"}]


@pytest.mark.parametrize("frames", [1, 3])
def test_a_limit_that_a_query_exceeds_is_that_querys_failure(server: FakeServer, frames: int) -> None:
    server.jobs.gate.clear()
    handle = pc.spawn_many([pl.LazyFrame({"a": [1]})] * frames)
    (job,) = server.submitted()
    server.jobs.wait(job, 10, revision=2)
    job.tasks[0].update(status="failed", error={"code": "limit_exceeded", "message": "600 processes at once"})
    server.jobs.gate.set()
    with pytest.raises(pc.QueriesFailed, match=f"1 of {frames} queries") as raised:
        handle.await_result()
    assert [group.frames for group in raised.value.groups] == [(0,)]
    assert [result.frame for result in raised.value.results] == list(range(1, frames))


def test_an_only_frame_that_can_not_be_split_is_the_jobs_own_error(server: FakeServer) -> None:
    with pytest.raises(pc.QueryFailed) as raised:
        pc.spawn_many([pl.LazyFrame({"a": [1]})], partition_by="day").await_result()
    assert raised.value.code == "invalid_key"


def test_the_rest_can_be_cancelled_at_the_first_failure(server: FakeServer) -> None:
    frames = [pl.LazyFrame({"a": [1]}).select("nope"), *[pl.LazyFrame({"a": [1]})] * 3]
    with pytest.raises(pc.QueriesFailed, match="3 were cancelled"):
        pc.spawn_many(frames, on_failure="cancel").await_result()


def test_retrying_runs_what_failed_and_nothing_else(server: FakeServer, tmp_path: Path) -> None:
    late = tmp_path / "late.parquet"
    handle = pc.spawn_many([pl.LazyFrame({"a": [1]}), pl.scan_parquet(late)])
    with pytest.raises(pc.QueriesFailed):
        handle.await_result()
    pl.DataFrame({"a": [5]}).write_parquet(late)
    again = handle.retry()
    results = again.await_result()
    assert again.retry_of == handle.id
    assert [(result.frame, result.head.item()) for result in results] == [(1, 5)]


def test_results_of_a_running_job_are_those_that_are_there(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = pc.spawn_many([pl.LazyFrame({"a": [1]})] * 2)
    assert len(handle.results) == 0
    server.jobs.gate.set()
    handle.await_result()
    assert len(handle.results) == 2


def test_spawn_many_takes_any_iterable_and_refuses_an_empty_one(server: FakeServer) -> None:
    assert len(pc.spawn_many(pl.LazyFrame({"a": [number]}) for number in range(3)).await_result()) == 3
    with pytest.raises(pc.UnsupportedArgument, match="at least one"):
        pc.spawn_many([])
    with pytest.raises(pc.UnsupportedArgument, match="expected a LazyFrame, got DataFrame"):
        pc.spawn_many([pl.DataFrame({"a": [1]})])  # type: ignore[list-item]


def test_write_options_reach_every_frame(server: FakeServer, tmp_path: Path) -> None:
    pc.spawn_many_blocking(
        [pl.LazyFrame({"a": [1], "b": [2]})] * 2, dst=tmp_path / "d", sink="csv", options={"separator": "|"}
    )
    assert (tmp_path / "d" / "frame=1" / "part-0.csv").read_text() == "a|b\n1|2\n"
