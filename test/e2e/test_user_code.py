"""What bad user code gets: the cause by name, with a neighbour on the same node that does not notice."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import frazil as pc
import polars as pl
import pytest
from conftest import is_alive, wait_until

pytestmark = [
    pytest.mark.usefixtures("installation", "neighbour"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc"),
]

# The node's two slots: one is the neighbour's, one that of the bad code.
CONTEXT = pc.ComputeContext(cpus=2, memory=2)
DEADLINE_SECONDS = 90

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def spawn(function: Callable[[], object], **options: Any) -> Any:
    def call(value: int) -> int:
        function()
        return value

    query = pl.LazyFrame({"a": [5]}).select(pl.col("a").map_elements(call, return_dtype=pl.Int64))
    return pc.spawn_many([query], context=CONTEXT, n_retries=0, **options)


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A task that runs through all of these tests, in one engine: it is right at the end, at its first attempt."""
    gate = tmp_path_factory.mktemp("neighbour") / "gate"
    pids = gate.with_name("pids")

    def wait() -> None:
        with open(pids, "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(gate):
            time.sleep(0.05)

    job = spawn(wait)
    wait_until("it has started processes", pids.exists)
    yield
    [pid] = pids.read_text().split()
    assert is_alive(int(pid))
    gate.touch()
    [result] = job.await_result(timeout=DEADLINE_SECONDS)
    assert result.lazy().collect().item() == 5


def failure(function: Callable[[], object], **options: Any) -> pc.FrazilError:
    """The error of a task that fails; the node must be able to run another one afterwards."""
    with pytest.raises(pc.QueriesFailed) as caught:
        spawn(function, **options).await_result(timeout=DEADLINE_SECONDS)
    [group] = caught.value.groups
    [result] = spawn(lambda: None).await_result(timeout=DEADLINE_SECONDS)
    assert result.lazy().collect().item() == 5
    return group.error


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def leak() -> None:
    held = []
    while True:
        held.append(bytearray(32 << 20))
        held[-1][::4096] = b"x" * len(held[-1][::4096])


def ignore_signals() -> None:
    import faulthandler
    import signal

    faulthandler.disable()
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            # Only the main thread may say so in Python.
            import ctypes

            ctypes.CDLL(None).signal(int(number), ctypes.c_void_p(1))
    time.sleep(600)


def hold_the_interpreter() -> None:
    import ctypes

    # C code that never gives the interpreter back.
    ctypes.PyDLL(None).sleep(600)


def exit_at_once() -> None:
    os._exit(7)


def close_all_files() -> None:
    os.closerange(0, 1024)


def put_a_file_in_their_place(path: str) -> Callable[[], None]:
    def replace() -> None:
        os.closerange(0, 1024)
        while os.open(path, os.O_CREAT | os.O_RDWR) < 8:
            pass

    return replace


CASES: dict[str, tuple[Callable[[], object], dict[str, Any], str]] = {
    "raises": (lambda: [][1], {}, "list index out of range"),
    "sys.exit": (lambda: sys.exit(3), {}, r"sys\.exit\(3\)"),
    "os._exit": (exit_at_once, {}, "exit code 7"),
    "segfaults": (crash, {}, "SIGSEGV"),
    "closes all files": (close_all_files, {}, "closed files .* that it had not opened"),
    "leaks": (leak, {}, r"used \d+ MiB of memory; its limit is 1024 MiB"),
    "sleeps": (lambda: time.sleep(600), {"timeout": 1}, "longer than its limit of 1 s"),
    "ignores signals": (ignore_signals, {"timeout": 1}, "longer than its limit of 1 s"),
    "holds the interpreter": (hold_the_interpreter, {"timeout": 1}, "longer than its limit of 1 s"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_bad_code_fails_with_its_cause_and_alone(case: str) -> None:
    function, options, cause = CASES[case]
    error = failure(function, **options)
    assert re.search(cause, error.detail), error.detail


def test_only_the_key_that_uses_too_much_memory_fails() -> None:
    def work(frame: pl.DataFrame) -> pl.DataFrame:
        if "a hungry one" in frame["key"]:
            leak()
        return frame

    # Keys run in their order: the others have not begun when the engine ends.
    query = pl.LazyFrame({"key": ["b", "a hungry one", "c"], "value": [1, 2, 3]}).map_batches(work)
    job = pc.remote(query, pc.ComputeContext(cpus=2, memory=1)).partition_by("key").execute()
    with pytest.raises(pc.QueriesFailed) as caught:
        job.await_result(timeout=DEADLINE_SECONDS)
    [group] = caught.value.groups
    assert (group.error.code, group.count) == ("out_of_memory", 1)
    assert [result.collect().row(0) for result in caught.value.results] == [("b", 1), ("c", 3)]


def test_what_the_engine_says_is_not_written_into_a_file_of_the_code(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    error = failure(put_a_file_in_their_place(str(path)))
    assert "had not opened" in error.detail
    assert path.read_bytes() == b""


def test_a_flood_of_output_is_capped_and_marked() -> None:
    def flood() -> None:
        os.write(1, b"\x00\xff\xfe binary\n")
        for _ in range(100):
            print("x" * 999)
        for _ in range(1_000):
            os.write(1, (b"y" * 1023 + b"\n") * 1024)

    job = spawn(flood)
    job.await_result(timeout=DEADLINE_SECONDS)
    lines = list(job.logs())
    assert sum(len(line.text) for line in lines) <= 1024 * 1024 + 1000
    # What is printed and what is written past Python come through two pipes, in no order among each other.
    assert any("binary" in line.text for line in lines)
    assert sum(line.text == "x" * 999 for line in lines) == 100
    assert "limit of 1024 KiB" in lines[-1].text


@pytest.mark.parametrize("end", ["fails", "succeeds"])
def test_processes_that_outlive_a_run_are_ended(tmp_path: Path, end: str) -> None:
    pids = tmp_path / "pids"

    def leave() -> None:
        import subprocess

        for options in ({}, {"start_new_session": True}):
            child = subprocess.Popen(["sleep", "600"], **options)  # type: ignore[call-overload]
            with open(pids, "a") as file:
                file.write(f"{child.pid}\n")
        if end == "fails":
            os._exit(1)

    if end == "fails":
        failure(leave)
    else:
        spawn(leave).await_result(timeout=DEADLINE_SECONDS)
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 2
    wait_until("they have ended", lambda: not any(is_alive(pid) for pid in found))
