"""Handles: status, progress, waiting, cancelling, retrying, and the same handle elsewhere."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import polars as pl
import pytest
from fake_server import FakeServer
from polars.testing import assert_frame_equal

import frazil as pc


def test_a_running_job_tells_how_far_it_is(server: FakeServer) -> None:
    server.jobs.gate.clear()
    server.jobs.phase = "making the engine environment"
    handle = pc.spawn_many([pl.LazyFrame({"a": [1]})] * 3, name="three", labels={"team": "risk"})
    (job,) = server.submitted()
    server.jobs.wait(job, 10, revision=2)
    progress = handle.progress()
    assert (progress.status, progress.phase) == ("running", "making the engine environment")
    assert (progress.total, progress.queued, progress.done) == (3, 3, 0)
    assert progress.elapsed_seconds >= 0
    assert handle.status() == "running"
    assert "three" in repr(handle)
    assert "running" in repr(handle)
    server.jobs.gate.set()
    handle.await_result()
    progress = handle.progress()
    assert (progress.status, progress.succeeded, progress.done, progress.phase) == ("succeeded", 3, 3, None)


def test_an_ended_job_is_not_asked_for_again(server: FakeServer) -> None:
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    handle.await_result()
    before = len(server.requests)
    assert handle.status() == "succeeded"
    assert handle.await_result().rows == 1
    assert len(server.requests) == before


def test_a_timeout_ends_the_wait_and_not_the_query(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="goes on") as raised:
        handle.await_result(timeout=0.2)
    assert time.monotonic() - started >= 0.2
    assert isinstance(raised.value, pc.AwaitTimeout)
    assert handle.id in str(raised.value)
    server.jobs.gate.set()
    assert handle.await_result().rows == 1


def test_cancelling_raises_at_the_waiting_side(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    handle.cancel()
    with pytest.raises(pc.QueryCancelled, match=handle.id):
        handle.await_result()
    handle.cancel()
    assert handle.status() == "cancelled"


def test_a_cancelled_many_job_holds_what_had_succeeded(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = pc.spawn_many([pl.LazyFrame({"a": [1]})] * 2)
    handle.cancel()
    with pytest.raises(pc.QueryCancelled) as raised:
        handle.await_result()
    assert raised.value.results is not None
    assert len(raised.value.results) == 0
    assert len(handle.await_result(raise_on_failure=False)) == 0


def test_a_retry_is_a_new_job_of_what_failed(server: FakeServer, tmp_path: Path) -> None:
    lf = pl.scan_parquet(tmp_path / "late.parquet")
    handle = lf.remote().execute()
    with pytest.raises(pc.QueryFailed):
        handle.await_result()
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "late.parquet")
    again = handle.retry()
    assert isinstance(again, pc.InProgressQueryRemote)
    assert again.await_result().rows == 2
    assert again.id != handle.id
    assert again.retry_of == handle.id
    with pytest.raises(pc.Conflict):
        again.retry()


def test_the_same_handle_by_id(server: FakeServer, source: str) -> None:
    one = pc.remote(pl.LazyFrame({"a": [1]}), name="one").execute()
    many = pc.spawn_many([pl.LazyFrame({"a": [1]})])
    by_key = pl.scan_parquet(source).remote().partition_by("day").execute()
    for handle in (one, many, by_key):
        again = pc.job(handle.id)
        assert type(again) is type(handle)
        assert again.await_result() is not None
    assert pc.job(one.id).name == "one"
    with pytest.raises(pc.NotFound, match="job_nope"):
        pc.job("job_nope")
    with pytest.raises(pc.NotFound):
        pc.job("")


def test_jobs_are_listed_newest_first_and_filtered(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": [1]})
    ids = []
    for number in range(5):
        handle = pc.remote(lf, labels={"parity": str(number % 2), "all": "yes"}).execute()
        handle.await_result()
        ids.append(handle.id)
    assert [job.id for job in pc.jobs()] == ids[::-1]
    assert [job.id for job in pc.jobs(limit=2)] == ids[:2:-1]
    assert [job.id for job in pc.jobs(labels={"all": "yes", "parity": "1"})] == [ids[3], ids[1]]
    assert len(pc.jobs(status="succeeded")) == 5
    assert pc.jobs(status="failed") == []
    assert pc.jobs(mode="many") == []
    assert pc.jobs()[0].labels == {"parity": "0", "all": "yes"}
    assert [job.id for job in pc.jobs(labels="parity=1")] == [ids[3], ids[1]]
    with pytest.raises(ValueError, match="'app:env' contains a colon"):
        pc.remote(lf, labels={"app:env": "prod"})


def test_handles_and_results_can_be_pickled_without_secrets(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = pl.LazyFrame({"a": [1]}).remote().write_parquet("s3://b/x", storage_options={"aws_secret": "hush"})
    data = pickle.dumps((handle, handle.await_result()))
    assert b"hush" not in data
    assert b"frz_test" not in data
    again, result = pickle.loads(data)
    assert again.status() == "succeeded"
    assert result.lazy().collect().to_dict(as_series=False) == {"a": [1]}


def test_an_interrupt_says_how_to_come_back(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(handle._client, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        handle.await_result()
    assert f'frazil.job("{handle.id}")' in capsys.readouterr().err


def test_a_handle_made_elsewhere_reads_a_csv_as_it_was_written(server: FakeServer, tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    handle = frame.lazy().remote().sink_csv(str(tmp_path / "out.csv"), separator=";", include_header=False)
    handle.await_result()
    elsewhere = pc.job(handle.id).await_result()
    assert_frame_equal(elsewhere.lazy().collect(), frame)
