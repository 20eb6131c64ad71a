"""Inputs that can't be read, destinations that can't be written: Polars' own words, no retry, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import Engine, Message, run_message, serialize

DISK_BYTES = 4 * 1024 * 1024
# Does not compress.
LARGE = pl.LazyFrame({"a": range(2_000_000)}).select(pl.col("a").hash(1))
IS_ROOT = hasattr(os, "getuid") and os.getuid() == 0


def tree(folder: Path) -> list[str]:
    """Every file and empty directory below, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return sorted(str(path.relative_to(folder)) for path in paths)


def fail(process: Engine, results: Path | str, frame: pl.LazyFrame, **fields: Any) -> Message:
    """Runs a frame that fails. The process must be able to run another one afterwards."""
    failed = process.converse(run_message(results, **fields), serialize(frame)).one("failed")
    assert "traceback" not in failed["error"] or "frazil_engine" not in failed["error"]["traceback"]
    return failed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if not IS_ROOT:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_a_full_disk_fails_the_task_for_good_and_leaves_nothing(
    engine: Engine, results: Path, small_disk: Path, format: str
) -> None:
    options = {"compression": "uncompressed"} if format in ("parquet", "ipc") else {}
    failed = fail(engine, results, LARGE, destination=f"{small_disk}/out", format=format, options=options)
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_failed", False)
    assert "No space left on device" in failed["error"]["message"]
    assert "Free space" in failed["error"]["hint"]
    assert list(small_disk.iterdir()) == []
    # What does fit is written, by the same engine.
    good = run_message(results, destination=f"{small_disk}/out", format=format, options=options)
    engine.converse(good, serialize(LARGE.head(10))).one("done")
    assert len(tree(small_disk)) == 1


def test_a_full_results_location_leaves_nothing(engine: Engine, small_disk: Path) -> None:
    failed = fail(engine, small_disk / "results", LARGE)
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_failed", False)
    assert "No space left on device" in failed["error"]["message"]
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("engine_choice", ["streaming", "in-memory"])
@pytest.mark.parametrize(
    ("scan", "name"),
    [
        (pl.scan_parquet, "gone.parquet"),
        (pl.scan_csv, "gone.csv"),
        (pl.scan_ipc, "gone.arrow"),
        (pl.scan_ndjson, "gone.ndjson"),
        (pl.scan_parquet, "gone/*.parquet"),
    ],
)
def test_a_missing_input_is_named(
    engine: Engine, results: Path, tmp_path: Path, scan: Any, name: str, engine_choice: str
) -> None:
    destination = tmp_path / "d" / "out"
    failed = fail(
        engine, results, scan(tmp_path / name), engine=engine_choice, destination=str(destination), format="parquet"
    )
    assert failed["retryable"] is False
    assert failed["error"]["code"] in ("storage_refused", "query_failed")
    assert "gone" in failed["error"]["message"]
    assert not destination.parent.exists() or tree(destination.parent) == []


def test_an_input_that_is_not_what_its_name_says_fails_in_the_words_of_polars(
    engine: Engine, results: Path, tmp_path: Path
) -> None:
    for name, data in (("text.parquet", b"not parquet at all"), ("empty.parquet", b""), ("cut.parquet", b"PAR1xxxx")):
        (tmp_path / name).write_bytes(data)
        failed = fail(engine, results, pl.scan_parquet(tmp_path / name))
        with pytest.raises(pl.exceptions.PolarsError) as local:
            pl.scan_parquet(tmp_path / name).collect()
        assert (failed["error"]["code"], failed["retryable"]) == ("query_failed", False)
        assert failed["error"]["message"].splitlines()[0] == str(local.value).splitlines()[0]


@pytest.fixture
def plain_engine() -> Iterator[Engine]:
    """An engine for which the modes of files hold: root's do not, unless it is told to do without that right."""
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if IS_ROOT else ()
    if IS_ROOT and shutil.which("setpriv") is None:
        pytest.skip("root can give up its rights over files only with setpriv")
    with Engine(prefix=prefix) as started:
        yield started


def test_what_the_engine_may_not_read_or_write_is_refused_for_good(plain_engine: Engine, tmp_path: Path) -> None:
    results = tmp_path / "results"
    secret, closed = tmp_path / "secret.parquet", tmp_path / "closed"
    pl.DataFrame({"a": [1]}).write_parquet(secret)
    secret.chmod(0)
    closed.mkdir(mode=0o555)
    frame = pl.LazyFrame({"a": [1]})
    for failed in (
        fail(plain_engine, results, pl.scan_parquet(secret)),
        fail(plain_engine, results, frame, destination=f"{closed}/out", format="parquet"),
        fail(plain_engine, closed / "results", LARGE),
    ):
        assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
        assert "ermission denied" in failed["error"]["message"] or "can't be written" in failed["error"]["message"]
    assert tree(closed) == [] and [path for path in results.rglob("*") if path.is_file()] == []
    plain_engine.converse(run_message(results), serialize(frame)).one("done")


def test_a_destination_that_can_be_none_is_refused(engine: Engine, results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    frame = pl.LazyFrame({"a": [1]})
    for destination, code in (
        (f"{tmp_path}/file/out", "storage_refused"),
        ("ftp://host/out", "not_available"),
        ("/proc/1/out", "storage_refused"),
        (f"{tmp_path}/{'n' * 300}/out", "storage_refused"),
    ):
        failed = fail(engine, results, frame, destination=destination, format="parquet")
        assert (failed["error"]["code"], failed["retryable"]) == (code, False), failed
    assert tree(tmp_path) == ["file"]
