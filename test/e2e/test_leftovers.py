"""What killed engines leave in storage is gone soon after their job has ended, and nothing else is."""

import os
import signal
import time
from pathlib import Path

import frazil as pc
import polars as pl
import pytest
from conftest import Installation, wait_until

pytestmark = [
    pytest.mark.usefixtures("installation"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc"),
]

CONTEXT = pc.ComputeContext(cpus=2, memory=2)
DEADLINE_SECONDS = 60


def endless(marker: Path) -> pl.LazyFrame:
    """A query that leaves a file saying in which process it runs, and does not end."""
    path = str(marker)

    def wait(value: int) -> int:
        with open(path, "w") as file:
            file.write(f"{os.getpid()} {os.getppid()}")
        time.sleep(600)
        return value

    return pl.LazyFrame({"a": [7]}).select(pl.col("a").map_elements(wait, return_dtype=pl.Int64))


def started(marker: Path) -> tuple[int, int]:
    wait_until("it runs", lambda: marker.exists() and " " in marker.read_text())
    engine, agent = marker.read_text().split()
    return int(engine), int(agent)


@pytest.mark.parametrize("end", ["cancel", "deadline", "engine", "agent"])
def test_what_was_staged_is_removed(tmp_path: Path, end: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.txt").write_text("mine")
    marker = tmp_path / "marker"
    options = {"timeout": 10} if end == "deadline" else {}
    job = endless(marker).remote(CONTEXT, n_retries=0, **options).write_parquet(f"{tmp_path}/d/out")
    engine, agent = started(marker)
    staging = tmp_path / "d" / ".frazil-staging" / job.id
    assert [path.name.rpartition("-")[2] for path in staging.iterdir()] == ["1"]
    if end == "cancel":
        job.cancel()
    elif end != "deadline":
        os.kill(engine if end == "engine" else agent, signal.SIGKILL)
    with pytest.raises(pc.FrazilError):
        job.await_result(timeout=DEADLINE_SECONDS)
    wait_until("nothing is staged", lambda: not staging.parent.exists())
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["mine.txt"]


def test_results_of_an_engine_that_was_killed_are_removed(installation: Installation, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    job = endless(marker).remote(CONTEXT, n_retries=0).execute()
    started(marker)
    found = [path for path in installation.home.rglob(job.id) if path.is_dir()]
    job.cancel()
    with pytest.raises(pc.QueryCancelled):
        job.await_result(timeout=DEADLINE_SECONDS)
    wait_until("what was staged is gone", lambda: not any(path.exists() for path in found))
    assert pl.LazyFrame({"a": [1]}).remote(CONTEXT).collect().item() == 1
