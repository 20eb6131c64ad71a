"""The connection: retries that do no harm, errors that say what to do, threads and forks."""

from __future__ import annotations

import base64
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_clock import Clock
from fake_server import TOKEN, UNAVAILABLE, FakeServer, Handler, hang_up, lose_answer, respond

import frazil as pc
from frazil import _http, _watch
from frazil._client import current_client

LF = pl.LazyFrame({"a": [1, 2]})
MEGABYTE = 1_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_refused_connection_says_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("FRAZIL_ADDRESS", address)
    monkeypatch.setenv("FRAZIL_TOKEN", TOKEN)
    with pytest.raises(pc.ServerUnreachable) as raised:
        LF.remote().collect()
    assert isinstance(raised.value, ConnectionError)
    assert address in str(raised.value)
    assert "pc dev" in str(raised.value)


def test_a_wrong_token_says_how_to_log_in(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAZIL_TOKEN", "frz_wrong")
    with pytest.raises(pc.Unauthenticated, match="login") as raised:
        LF.remote().collect()
    assert "frz_wrong" not in str(raised.value)
    assert len(server.requests) == 1


def test_a_foreign_server_is_recognised(server: FakeServer) -> None:
    server.faults.append(respond(404, b"<html>nginx</html>", "text/html"))
    with pytest.raises(pc.ServerError, match="not an answer of a Frazil server"):
        LF.remote().collect()
    server.faults.append(respond(200, b"<html>welcome</html>", "text/html"))
    with pytest.raises(pc.ServerError, match="not an answer of a Frazil server"):
        LF.remote().collect()


@pytest.mark.parametrize(
    "fault",
    [
        respond(503, UNAVAILABLE),
        respond(503, b"upstream is starting", "text/plain"),
        respond(502, b"", "text/html"),
        respond(429, {**UNAVAILABLE, "code": "too_many_requests"}, **{"retry-after": "0.05"}),
        hang_up,
        lose_answer,
    ],
)
def test_a_submission_survives_a_fault_and_happens_once(server: FakeServer, fault: object) -> None:
    LF.remote().collect()
    server.faults += [fault, fault]  # type: ignore[list-item]
    assert LF.remote().collect().height == 2
    assert len(server.submitted()) == 2
    keys = {request["headers"]["idempotency-key"] for request in server.requests[1:]}
    assert len(keys) == 1
    assert len(server.requests) == 4


def test_a_streamed_submission_survives_a_fault_too(server: FakeServer) -> None:
    LF.remote().collect()
    server.faults += [lose_answer, respond(503, UNAVAILABLE)]
    assert len(pc.spawn_many([LF] * 3).await_result()) == 3
    assert len(server.submitted()) == 2


@pytest.mark.parametrize("code", ["capacity", "cluster_failed"])
def test_a_503_that_waiting_does_not_cure_is_not_repeated(server: FakeServer, code: str) -> None:
    server.faults.append(respond(503, {**UNAVAILABLE, "code": code}))
    with pytest.raises(pc.FrazilError) as raised:
        LF.remote().collect()
    assert raised.value.code == code
    assert len(server.requests) == 1


def test_retries_end(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "RETRY_SECONDS", 0.3)
    server.faults += [respond(503, UNAVAILABLE)] * 1000
    with pytest.raises(pc.Unavailable, match="starting"):
        LF.remote().collect()
    assert 2 <= len(server.requests) < 20


def held(clock: Clock, seconds: float) -> Callable[[Handler], bool]:
    """A fault: the server holds the answer back, and is gone after that time."""

    def fault(handler: Handler) -> bool:
        clock.now += seconds
        return hang_up(handler)

    return fault


def test_the_time_that_an_answer_was_held_back_leaves_all_the_time_for_retries(
    server: FakeServer, clock: Clock
) -> None:
    server.jobs.gate.clear()
    handle = LF.remote().execute()
    started = clock.now
    server.faults += [held(clock, 45.0), *[hang_up] * 10]
    server.jobs.gate.set()
    assert handle.await_result().rows == 2
    assert clock.now - started > 45.0


def test_retries_end_in_time_however_long_an_answer_was_held_back(server: FakeServer, clock: Clock) -> None:
    pc.jobs()
    started = clock.now
    server.faults += [held(clock, 45.0), *[hang_up] * 1000]
    with pytest.raises(pc.ServerUnreachable):
        pc.jobs()
    spent_s = clock.now - started - 45.0
    assert _http.RETRY_SECONDS - _http.BACKOFF_MAX_SECONDS <= spent_s <= _http.RETRY_SECONDS


def test_an_address_that_never_answered_is_not_waited_for_twice(server: FakeServer, clock: Clock) -> None:
    server.faults.append(held(clock, _http.CONNECT_TIMEOUT_SECONDS))
    with pytest.raises(pc.ServerUnreachable):
        pc.jobs()
    assert len(server.requests) == 1


def test_a_retry_whose_answer_is_lost_is_asked_for_again_and_made_once(server: FakeServer) -> None:
    with pytest.raises(pc.QueryFailed):
        LF.select("nope").remote().collect()
    handle = pc.jobs()[0]
    server.faults.append(lose_answer)
    handle.retry()
    retries = [request for request in server.requests if request["path"].endswith("/retry")]
    assert len({request["headers"]["idempotency-key"] for request in retries}) == 1
    assert len(retries) == 2
    assert len(server.submitted()) == 2


def test_backoff_doubles_up_to_a_limit() -> None:
    for attempt in range(1, 40):
        longest = min(_http.BACKOFF_MAX_SECONDS, _http.BACKOFF_FIRST_SECONDS * 2 ** (attempt - 1))
        assert longest / 2 <= _http.backoff_seconds(attempt) <= longest


def test_threads_share_a_client(server: FakeServer) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                assert pl.LazyFrame({"a": [number]}).remote().collect().item() == number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(server.submitted()) == 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_connections_of_its_own(server: FakeServer) -> None:
    # In a process of its own: the fake server's threads do not survive a fork.
    script = (
        "import os, frazil as pc\n"
        "pc.jobs()\n"
        "pid = os.fork()\n"
        "pc.jobs()\n"
        "if pid == 0: os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "pc.jobs()\n"
    )
    source = str(Path(pc.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env={**os.environ, "PYTHONPATH": source})
    connections = [request["connection"] for request in server.requests]
    assert len(connections) == 4
    assert len(set(connections)) == 2


def test_urllib3_is_not_imported_before_it_is_needed() -> None:
    source = str(Path(pc.__file__).parents[1])
    script = (
        "import sys, frazil; print([name for name in ('urllib3', 'asyncio.events', 'IPython') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True
    )
    assert "urllib3" not in done.stdout


def test_the_address_may_have_a_path(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAZIL_ADDRESS", f"{server.address}/prefix/")
    with pytest.raises(pc.NotFound):
        pc.jobs()
    assert server.paths() == ["GET /prefix/v1/jobs"]


def test_a_proxy_is_used_except_for_this_machine(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("FRAZIL_ADDRESS", "http://frazil.invalid:1234")
    assert pc.jobs() == []  # The fake server, as a proxy, is asked for the whole address.
    assert server.requests[0]["target"].startswith("http://frazil.invalid:1234/v1/jobs")
    monkeypatch.setenv("FRAZIL_ADDRESS", server.address)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert pc.jobs() == []


def test_a_proxy_gets_its_own_name_and_password(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    host = server.address.removeprefix("http://")
    monkeypatch.setenv("http_proxy", f"http://ann:p%40ss@{host}")
    monkeypatch.setenv("FRAZIL_ADDRESS", "http://frazil-1.invalid")
    assert pc.jobs() == []
    expected = "Basic " + base64.b64encode(b"ann:p@ss").decode()
    assert server.requests[0]["headers"]["proxy-authorization"] == expected


def test_a_proxy_needs_no_scheme(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address.removeprefix("http://"))
    monkeypatch.setenv("FRAZIL_ADDRESS", "http://frazil-2.invalid")
    assert pc.jobs() == []


@pytest.mark.parametrize(("number", "proxy"), list(enumerate(["http://ann:secret@[::1", "nonsense://ann:secret@host"])))
def test_what_is_no_proxy_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, number: int, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("FRAZIL_ADDRESS", f"http://frazil-none-{number}.invalid")
    monkeypatch.setenv("FRAZIL_TOKEN", TOKEN)
    with pytest.raises(pc.NotConfigured, match="HTTP_PROXY") as raised:
        pc.jobs()
    assert "secret" not in str(raised.value)


def test_a_large_plan_travels(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": range(500_000)})
    assert lf.remote().execute().await_result().rows == 500_000


class SlowReader:
    """A file of which a megabyte takes 60 ms."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.unpaid = 0

    def readline(self, *limit: int) -> bytes:
        return self.file.readline(*limit)

    def read(self, size: int) -> bytes:
        parts = []
        for left in range(size, 0, -MEGABYTE):
            parts.append(self.file.read(min(left, MEGABYTE)))
            self.unpaid += len(parts[-1])
            if self.unpaid >= MEGABYTE:
                time.sleep(0.06)
                self.unpaid = 0
        return b"".join(parts)


@pytest.mark.parametrize("count", [1, 2])
def test_a_slow_network_has_all_the_time_that_a_plan_needs(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    read = Handler.read_body

    def slowly(handler: Handler) -> bytes:
        handler.rfile = SlowReader(handler.rfile)  # type: ignore[assignment]
        try:
            return read(handler)
        finally:
            handler.rfile = handler.rfile.file  # type: ignore[attr-defined]

    monkeypatch.setattr(Handler, "read_body", slowly)
    monkeypatch.setattr(_http, "CONNECT_TIMEOUT_SECONDS", 0.3)
    values = random.Random(0).randbytes(12 * MEGABYTE)
    lf = pl.LazyFrame({"a": [values]})
    if count == 1:
        assert lf.remote().execute().await_result().rows == 1
    else:
        assert len(pc.spawn_many([lf] * count).await_result()) == count
    assert len(server.submitted()) == 1
    assert max(request["size"] for request in server.requests) > 12 * MEGABYTE


@pytest.fixture
def silent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lets the server say nothing to requests of paths with this ending, until the test is over."""
    monkeypatch.setattr(_watch, "LATE_SECONDS_MAX", 0.1)
    over = threading.Event()

    def fall_silent(ending: str) -> None:
        def say_nothing(handler: Handler) -> bool:
            if not handler.path.split("?")[0].endswith(ending):
                return False
            over.wait(50)
            return hang_up(handler)

        server.faults += [say_nothing] * 50

    yield fall_silent
    server.faults.clear()
    over.set()


def test_a_wait_ends_when_its_time_is_over_though_the_server_says_nothing(
    server: FakeServer, silent: Callable[[str], None]
) -> None:
    server.jobs.gate.clear()
    handle = LF.remote().execute()
    silent("")
    with pytest.raises(pc.AwaitTimeout, match="goes on"):
        handle.await_result(timeout=0.2)
    server.faults.clear()
    server.jobs.gate.set()
    assert handle.await_result().rows == 2


def test_a_wait_ends_when_its_time_is_over_though_prints_can_not_be_had(
    server: FakeServer, silent: Callable[[str], None]
) -> None:
    server.jobs.gate.clear()
    handle = LF.remote().execute()
    (job,) = server.submitted()
    job.add_log(None, "never seen")
    silent("/logs")
    with pytest.raises(pc.AwaitTimeout, match="goes on"):
        handle.await_result(timeout=0.3)


def test_a_wait_uses_all_of_its_time_whatever_the_server_says_of_later(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = LF.remote().execute()
    started = time.monotonic()
    server.faults += [respond(503, UNAVAILABLE, **{"retry-after": "30"})]
    with pytest.raises(pc.AwaitTimeout):
        handle.await_result(timeout=0.4)
    assert time.monotonic() - started >= 0.4


def test_a_wait_ends_when_its_time_is_over_though_the_server_is_gone(server: FakeServer) -> None:
    server.jobs.gate.clear()
    handle = LF.remote().execute()
    server.faults += [hang_up] * 1_000
    with pytest.raises(pc.AwaitTimeout, match="goes on") as raised:
        handle.await_result(timeout=0.3)
    assert isinstance(raised.value.__cause__, pc.ServerUnreachable)
    assert server.faults != []


def test_the_client_is_one_for_each_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = current_client()
    assert current_client() is first
    monkeypatch.setenv("FRAZIL_TOKEN", "frz_other")
    assert current_client() is not first
