"""Inputs that can't be read, destinations that can't be written: Polars' own words, no retry, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import Engine, Message, run_message, serialize, task

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


@pytest.mark.parametrize(
    ("destination", "part"),
    [
        ("file", {}),
        ("file/out", {}),
        ("file/out.parquet", {}),
        ("file", {"frame": 0}),
        ("file", {"frame": 0, "keyPath": "day=1/x=2", "keyToken": "1"}),
        ("file/deep/out", {"frame": 0}),
    ],
)
@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
def test_a_file_where_a_directory_must_be_is_refused_before_the_query_runs(
    engine: Engine, results: Path, tmp_path: Path, destination: str, part: Message, mode: str
) -> None:
    (tmp_path / "file").write_text("mine")

    def run(frame: pl.DataFrame) -> pl.DataFrame:
        raise ValueError("the query ran")

    failed = fail(
        engine,
        results,
        pl.LazyFrame({"a": [1]}).map_batches(run),
        destination=f"{tmp_path}/{destination}",
        format="parquet",
        mode=mode,
        tasks=[task(**part)],
    )
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert failed["error"]["message"] == f"{tmp_path}/file is a file, not a directory."
    assert tree(tmp_path) == ["file"]


def test_a_file_that_appears_where_a_directory_must_be_is_refused_for_good(
    engine: Engine, results: Path, tmp_path: Path
) -> None:
    def put(frame: pl.DataFrame) -> pl.DataFrame:
        place.write_text("mine")
        return frame

    place = tmp_path / "out"
    frame = pl.LazyFrame({"a": [1]}).map_batches(put)
    failed = fail(engine, results, frame, destination=str(place), format="parquet", tasks=[task(frame=0)])
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert place.read_text() == "mine"


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a store that answers every request with one status and code."""
    status, code = request.param

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_arguments: object, **_named: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.mark.parametrize(
    ("refusing", "code", "hint"),
    [
        ((400, "ExpiredToken"), "storage_refused", "pass new ones"),
        ((400, "InvalidToken"), "storage_refused", "pass new ones"),
        ((400, "AuthorizationHeaderMalformed"), "storage_refused", "region"),
        ((301, "PermanentRedirect"), "storage_refused", "region"),
        ((400, "KMS.DisabledException"), "storage_refused", "encryption key"),
        ((400, "KMS.NotFoundException"), "storage_refused", "encryption key"),
        ((403, "AccessDenied"), "storage_refused", "credentials"),
        ((400, "KMS.ThrottlingException"), "storage_failed", None),
        ((400, "RequestTimeout"), "storage_failed", None),
    ],
    indirect=["refusing"],
)
@pytest.mark.parametrize("mode", ["error", "append"])
def test_what_a_store_refuses_is_not_tried_again(
    engine: Engine, results: Path, refusing: str, code: str, hint: str | None, mode: str
) -> None:
    options = {
        "aws_endpoint_url": refusing,
        "aws_allow_http": "true",
        "aws_access_key_id": "test-access-key",
        "aws_secret_access_key": "test-secret-key",
        "aws_region": "us-east-1",
    }
    fields: dict[str, Any] = {"format": "parquet", "mode": mode, "storageOptions": options}
    failed = fail(engine, results, pl.LazyFrame({"a": [1]}), destination="s3://bucket/out/", **fields)
    assert (failed["error"]["code"], failed["retryable"]) == (code, code == "storage_failed")
    assert hint is None or hint in failed["error"]["hint"]


@pytest.mark.parametrize("refusing", [(400, "ExpiredToken")], indirect=True)
def test_a_store_that_gives_no_reason_for_what_it_refuses_is_not_asked_again(
    engine: Engine, results: Path, refusing: str
) -> None:
    """An answer to HEAD has no body."""
    options = {"aws_endpoint_url": refusing, "aws_allow_http": "true", "aws_skip_signature": "true"}
    destination = "s3://bucket/out.parquet"
    failed = fail(
        engine, results, pl.LazyFrame({"a": [1]}), destination=destination, format="parquet", storageOptions=options
    )
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert "expired" in failed["error"]["hint"]
