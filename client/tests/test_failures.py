"""A remote failure is the user's own exception here; what the run printed and warned of shows here, too."""

from __future__ import annotations

import builtins
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_clock import Clock
from fake_server import FakeServer, Handler, hang_up, respond

import frazil as pc
from frazil import _http
from frazil._remote_errors import failure_error, problem_error, reissue_warnings


def info(name: str | None, module: str | None = None, **more: Any) -> Any:
    return {"code": "user_code_failed", "message": "the message", "type": name, "module": module, **more}


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def test_a_missing_column_is_polars_own_error(server: FakeServer) -> None:
    handle = pl.LazyFrame({"a": [1]}).select("nope").remote().execute()
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="nope") as raised:
        handle.await_result()
    assert isinstance(raised.value, pc.QueryFailed)
    assert raised.value.job_id == handle.id
    assert raised.value.remote_type == "ColumnNotFoundError"
    assert type(raised.value).__module__ == "polars.exceptions"


def test_blocking_forms_raise_the_same(server: FakeServer) -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        pl.LazyFrame({"a": [1]}).select("nope").remote().collect()


def test_the_users_own_exception_and_its_remote_traceback_arrive(server: FakeServer) -> None:
    def divide(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.lit(1 / (frame.height - frame.height)))

    with pytest.raises(ZeroDivisionError, match="division by zero") as raised:
        pl.LazyFrame({"a": [1]}).map_batches(divide).remote().collect()
    assert "1 / (frame.height - frame.height)" in shown(raised.value)
    assert "Remote traceback" in shown(raised.value)


def builtin_exceptions() -> list[str]:
    found = [kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    unwanted = (StopIteration, StopAsyncIteration)
    if sys.version_info >= (3, 11):
        unwanted = (*unwanted, ExceptionGroup)  # noqa: F821 # Holds other exceptions, which do not travel.
    return sorted({kind.__name__ for kind in found if not issubclass(kind, unwanted)})


@pytest.mark.parametrize("name", builtin_exceptions())
def test_every_builtin_exception_is_raised_as_itself(name: str) -> None:
    error = failure_error(info(name, "builtins", hint="try this"), "job_1")
    assert isinstance(error, getattr(builtins, name))
    assert isinstance(error, pc.QueryFailed)
    assert str(error) == "the message\nhint: try this"
    assert name in shown(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.job_id) == (type(error), str(error), "job_1")


@pytest.mark.parametrize("name", sorted(name for name in pl.exceptions.__all__ if not name.endswith("Warning")))
def test_every_polars_exception_is_raised_as_itself(name: str) -> None:
    error = failure_error(info(name, "polars.exceptions"), "job_1")
    assert isinstance(error, getattr(pl.exceptions, name))
    assert isinstance(error, pc.QueryFailed)
    assert str(error) == "the message"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("LinAlgError", "numpy.linalg"),
        ("ColumnNotFoundError", "my.module"),
        ("SystemExit", "builtins"),
        ("KeyboardInterrupt", "builtins"),
        ("StopIteration", "builtins"),
        ("print", "builtins"),
        ("DataFrame", "polars"),
    ],
)
def test_any_other_type_is_a_remote_error_that_names_it(name: str, module: str) -> None:
    error = failure_error(info(name, module), "job_1")
    assert type(error) is pc.RemoteError
    assert str(error) == f"{module}.{name}: the message"
    assert (error.remote_type, error.remote_module) == (name, module)
    assert pickle.loads(pickle.dumps(error)).remote_type == name


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        ("out_of_memory", pc.OutOfMemory, MemoryError),
        ("timed_out", pc.QueryTimedOut, TimeoutError),
        ("cancelled", pc.QueryCancelled, pc.QueryFailed),
        ("engine_lost", pc.QueryFailed, pc.FrazilError),
    ],
)
def test_failures_without_an_exception_go_by_their_code(code: str, kind: type, builtin: type) -> None:
    error = failure_error({"code": code, "message": "why"}, "job_1")
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert error.code == code


def test_the_users_type_is_one_class_however_often_it_fails() -> None:
    first, second = (failure_error(info("KeyError", "builtins"), "job_1") for _ in range(2))
    assert type(first) is type(second)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthenticated", pc.Unauthenticated),
        (404, "not_found", pc.NotFound),
        (409, "conflict", pc.Conflict),
        (413, "too_large", pc.LimitExceeded),
        (422, "invalid_plan", pc.InvalidRequest),
        (422, "unsupported_polars", pc.UnsupportedVersion),
        (422, "not_available", pc.NotAvailable),
        (422, "a_code_of_tomorrow", pc.InvalidRequest),
        (500, "another_code_of_tomorrow", pc.ServerError),
        (503, "capacity", pc.Unavailable),
        (503, "cluster_failed", pc.ClusterFailed),
    ],
)
def test_problems_become_errors_by_their_code(status: int, code: str, kind: type[pc.FrazilError]) -> None:
    problem = {"code": code, "detail": "what was wrong", "issues": [{"path": "spec.seed", "message": "too small"}]}
    error = problem_error(problem, status)
    assert type(error) is kind
    assert error.code == code
    assert "what was wrong" in str(error)
    assert "spec.seed: too small" in str(error)
    assert pickle.loads(pickle.dumps(error)).detail == error.detail


def test_what_remote_code_prints_is_printed_here_once(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    def talk(frame: pl.DataFrame) -> pl.DataFrame:
        print("rows:", frame.height)
        return frame

    handle = pl.LazyFrame({"a": [1, 2]}).map_batches(talk).remote().execute()
    handle.await_result()
    handle.await_result()
    assert capsys.readouterr().out == "rows: 2\n"
    assert [(line.stream, line.text) for line in handle.logs()] == [("stdout", "rows: 2")]


def test_streams_go_where_they_belong_and_the_number_of_lines_is_bounded(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    (job,) = server.submitted()
    job.add_log(None, "to stderr", "stderr")
    for number in range(1100):
        job.add_log(None, f"line {number}")
    server.jobs.gate.set()
    handle.await_result()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"line {number}" for number in range(999)]
    assert printed.err.splitlines() == ["to stderr", "... more than 1000 lines were printed: see .logs()"]
    assert len(list(handle.logs())) == 1101


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_printing_can_be_turned_off(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    lf = pl.LazyFrame({"a": [1]}).map_batches(lambda frame: print("hello") or frame)
    if way == "argument":
        lf.remote().execute().await_result(logs=False)
    else:
        monkeypatch.setenv("FRAZIL_LOGS", "0")
        lf.remote().collect()
    assert capsys.readouterr().out == ""
    assert not any("logs" in path for path in server.paths())


def test_without_prints_no_request_is_made_for_them(server: FakeServer) -> None:
    pl.LazyFrame({"a": [1]}).remote().execute().await_result()
    assert not any("logs" in path for path in server.paths())


def test_following_logs_yields_them_until_the_end(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    (job,) = server.submitted()
    job.add_log(None, "one")
    lines = handle.logs(follow=True)
    assert next(lines).text == "one"
    job.add_log(None, "two", "stderr")
    server.jobs.update(job)
    assert next(lines).stream == "stderr"
    server.jobs.gate.set()
    assert list(lines) == []
    assert handle._job["status"] == "succeeded"


def test_following_a_job_that_prints_nothing_outlives_a_broken_connection(server: FakeServer, clock: Clock) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    (job,) = server.submitted()

    def beat_and_break(handler: Handler) -> bool:
        if not handler.path.endswith("/events"):
            return False
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for _ in range(3):
            clock.now += 15.0
            handler.wfile.write(b"e\r\n: still here\n\n\r\n")
        job.add_log(None, "at last")
        server.jobs.gate.set()
        return hang_up(handler)

    server.faults += [beat_and_break] * 2  # The first one is for the page of lines that are there.
    assert [line.text for line in handle.logs(follow=True)] == ["at last"]
    assert [path.rsplit("/", 1)[1] for path in server.paths()[1:]] == ["logs", "events", job.id, "events"]


def test_following_outlives_a_proxy_that_says_that_the_server_is_away(server: FakeServer, clock: Clock) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    (job,) = server.submitted()
    page = respond(502, b"<html>bad gateway</html>", "text/html")

    def away(handler: Handler) -> bool:
        if not handler.path.endswith("/events"):
            return False
        job.add_log(None, "at last")
        server.jobs.gate.set()
        return page(handler)

    server.faults += [away] * 2  # The first one is for the page of lines that are there.
    assert [line.text for line in handle.logs(follow=True)] == ["at last"]


def test_following_ends_when_connections_only_break(server: FakeServer, clock: Clock) -> None:
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    started = clock.now
    server.faults += [lambda handler: handler.path.endswith("/events") and hang_up(handler)] * 1000
    with pytest.raises(pc.ServerUnreachable):
        list(handle.logs(follow=True))
    assert 0 < clock.now - started - _http.RETRY_SECONDS <= _http.BACKOFF_MAX_SECONDS


def test_warnings_of_the_run_are_warnings_here(server: FakeServer) -> None:
    def warn(frame: pl.DataFrame) -> pl.DataFrame:
        warnings.warn("careful", FutureWarning, stacklevel=1)
        warnings.warn("slow", pl.exceptions.PerformanceWarning, stacklevel=1)
        return frame

    handle = pl.LazyFrame({"a": [1]}).map_batches(warn).remote().execute()
    server.jobs.wait(server.submitted()[0], 10)  # The fake engine catches warnings in this process: one at a time.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle.await_result()
        handle.await_result()
    assert [(found.category, str(found.message)) for found in caught] == [
        (FutureWarning, "careful"),
        (pl.exceptions.PerformanceWarning, "slow"),
    ]
    assert Path(caught[0].filename) == Path(__file__)


def test_a_warning_of_an_unknown_category_is_a_user_warning() -> None:
    with pytest.warns(UserWarning, match="odd"):
        reissue_warnings([{"category": "numpy.ComplexWarning", "message": "odd"}], set())
