"""Engines and nodes that die: hidden where they can be, named where they can't."""

import os
import signal
import time
from pathlib import Path

import frazil as pc
import polars as pl
import pytest
from conftest import is_alive, wait_until

pytestmark = [
    pytest.mark.usefixtures("installation"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc"),
]

CONTEXT = pc.ComputeContext(cpus=2, memory=2)
DEADLINE_SECONDS = 60


def slow_the_first_time(folder: Path) -> pl.LazyFrame:
    """A query that leaves a file saying in which process it runs, and takes an hour unless one is there already."""
    folder.mkdir()
    marks = str(folder)

    def marked(value: int) -> int:
        is_first = not os.listdir(marks)
        with open(f"{marks}/{os.getpid()} {os.getppid()}", "w"):
            pass
        if is_first:
            time.sleep(3_600)
        return value

    return pl.LazyFrame({"a": [7]}).select(pl.col("a").map_elements(marked, return_dtype=pl.Int64))


@pytest.mark.parametrize("victim", ["engine", "agent"])
def test_a_killed_process_is_hidden_from_the_user(tmp_path: Path, victim: str) -> None:
    folder = tmp_path / "marks"
    in_progress = slow_the_first_time(folder).remote(CONTEXT).write_parquet(f"{tmp_path}/dst")
    wait_until("it runs", lambda: any(folder.iterdir()))
    engine, agent = (int(pid) for pid in next(folder.iterdir()).name.split())
    os.kill(engine if victim == "engine" else agent, signal.SIGKILL)
    result = in_progress.await_result(timeout=DEADLINE_SECONDS)
    assert result.lazy().collect().item() == 7
    assert [path.name for path in (tmp_path / "dst").iterdir()] == ["part-0.parquet"]
    assert len(list(folder.iterdir())) == 2


def test_what_a_query_started_ends_with_the_agent_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    marks = str(folder)

    def start(value: int) -> int:
        import subprocess

        child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
        with open(f"{marks}/{child.pid} {os.getppid()}", "w"):
            pass
        time.sleep(3_600)
        return value

    query = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(start, return_dtype=pl.Int64))
    in_progress = query.remote(CONTEXT, n_retries=0).execute()
    wait_until("it runs", lambda: any(folder.iterdir()))
    child, agent = (int(pid) for pid in next(folder.iterdir()).name.split())
    os.kill(agent, signal.SIGKILL)
    wait_until("what it started has ended", lambda: not is_alive(child))
    with pytest.raises(pc.FrazilError):
        in_progress.await_result(timeout=DEADLINE_SECONDS)


def test_a_query_that_takes_too_much_memory_fails_alone_and_says_so() -> None:
    def hog(value: int) -> int:
        return value + len(bytearray(3 * 1024**3))

    query = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(hog, return_dtype=pl.Int64))
    with pytest.raises(pc.OutOfMemory, match="limit"):
        query.remote(CONTEXT).execute().await_result()
    assert pl.LazyFrame({"a": [1]}).remote(CONTEXT).collect().item() == 1


def test_a_query_past_its_deadline_fails_and_says_so() -> None:
    def sleep(value: int) -> int:
        time.sleep(3_600)
        return value

    query = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(sleep, return_dtype=pl.Int64))
    with pytest.raises(pc.QueryTimedOut):
        pc.remote(query, CONTEXT, timeout=1).execute().await_result(timeout=DEADLINE_SECONDS)


def test_a_segfault_is_named_after_its_attempts_are_used_up() -> None:
    def crash(value: int) -> int:
        os.kill(os.getpid(), signal.SIGSEGV)
        return value

    query = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(crash, return_dtype=pl.Int64))
    with pytest.raises(pc.FrazilError, match="SIGSEGV"):
        query.remote(CONTEXT, n_retries=1).execute().await_result()


def test_cancel_ends_a_running_engine(tmp_path: Path) -> None:
    folder = tmp_path / "marks"
    in_progress = slow_the_first_time(folder).remote(CONTEXT).execute()
    wait_until("it runs", lambda: any(folder.iterdir()))
    engine = int(next(folder.iterdir()).name.split()[0])
    in_progress.cancel()
    wait_until("its engine has ended", lambda: not is_alive(engine))
    with pytest.raises(pc.QueryCancelled):
        in_progress.await_result()
