"""The process and its two pipes."""

from __future__ import annotations

import os
import platform
import struct
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import DEADLINE_SECONDS, Engine, EngineGone, run_message, serialize, task


def endless_plan(marker: Path) -> bytes:
    def wait(frame: pl.DataFrame) -> pl.DataFrame:
        marker.touch()
        while True:
            time.sleep(0.01)

    return serialize(pl.LazyFrame({"a": [1]}).map_batches(wait))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.smoke
def test_an_engine_says_what_it_runs(engine: Engine) -> None:
    assert engine.ready == {
        "type": "ready",
        "python": platform.python_version(),
        "polars": pl.__version__,
        "pid": engine.process.pid,
    }


@pytest.mark.smoke
def test_the_answers_to_a_run_come_in_order(engine: Engine, results: Path) -> None:
    talk = engine.converse(run_message(results, engine="streaming"), serialize(pl.LazyFrame({"a": [1, 2]})))
    assert [message["type"] for message, _ in talk.messages] == ["opened", "done", "idle"]
    done = talk.one("done")
    assert done["usage"]["wallMs"] > 0
    assert done["result"]["locations"] == [str(results / "job_1" / "task_1" / "1.arrow")]


def test_exit_ends_the_process() -> None:
    with Engine() as engine:
        engine.send({"type": "exit"})
        assert engine.process.wait(DEADLINE_SECONDS) == 0


def test_the_end_of_the_pipe_ends_the_process_during_a_query(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.send(run_message(tmp_path), endless_plan(tmp_path / "started"))
        wait_for(tmp_path / "started")
        engine.close_input()
        assert engine.process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.smoke
def test_exit_ends_the_process_during_a_query(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.send(run_message(tmp_path), endless_plan(tmp_path / "started"))
        wait_for(tmp_path / "started")
        engine.send({"type": "exit"})
        assert engine.process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<II", 5, 0) + b"hello",
        struct.pack("<II", 2, 0) + b"[]",
        struct.pack("<II", 2**31, 0),
        struct.pack("<II", 10, 2**31),
        struct.pack("<II", 16, 0) + b'{"type":"dance"}',
        struct.pack("<II", 14, 0) + b'{"type":"run"}',
    ],
)
def test_what_is_not_a_message_ends_the_process_with_words(frame: bytes) -> None:
    with Engine() as engine:
        engine.send_raw(frame)
        with pytest.raises(EngineGone, match="frazil_engine: "):
            engine.receive()
        assert engine.process.returncode == 2


def many_message(results: Path, plans: list[bytes]) -> dict[str, Any]:
    """A run of many queries; its body is the plans, one behind the other."""
    tasks = [task(f"task_{number}", frame=number) for number in range(len(plans))]
    return run_message(results, tasks=tasks, plan={"kind": "dsl", "bytes": [len(plan) for plan in plans]})


@pytest.mark.smoke
def test_many_queries_of_one_run_are_answered_in_their_order(engine: Engine, results: Path) -> None:
    frames = [pl.LazyFrame({"a": [number]}).select(pl.col("a") * 3) for number in range(20)]
    plans = [serialize(frame) for frame in frames]
    plans[7] = serialize(pl.LazyFrame({"a": [1]}).select("b"))
    plans[8] = plans[8][: len(plans[8]) // 2]
    talk = engine.converse(many_message(results, plans), b"".join(plans))
    answers = [(message, body) for message, body in talk.messages if "usage" in message]
    assert [message["taskId"] for message, _ in answers] == [f"task_{number}" for number in range(20)]
    values = {message["taskId"]: pl.read_ipc_stream(body).item() for message, body in answers if body}
    assert values == {f"task_{number}": 3 * number for number in range(20) if number not in (7, 8)}
    assert [message["error"]["code"] for message in talk.all("failed")] == ["query_failed", "invalid_plan"]
    assert talk.all("opened") == [{"type": "opened", "python": False}]
    assert talk.messages[-1][0] == {"type": "idle"}


def test_a_query_that_lost_its_task_before_its_turn_is_left_out(engine: Engine, tmp_path: Path, results: Path) -> None:
    def hold_until_the_message_was_read(value: int) -> int:
        import gc
        import time

        [session] = [thing for thing in gc.get_objects() if type(thing).__name__ == "Session"]
        open(f"{tmp_path}/begun", "w").close()
        deadline = time.monotonic() + 60
        while "task_1" in session.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        return value

    def leave_a_trace(value: int) -> int:
        open(f"{tmp_path}/trace", "w").close()
        return value

    def query(function: Any) -> bytes:
        return serialize(pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(function, return_dtype=pl.Int64)))

    plans = [query(hold_until_the_message_was_read), query(leave_a_trace), serialize(pl.LazyFrame({"a": [5]}))]
    engine.send(many_message(results, plans), b"".join(plans))
    wait_for(tmp_path / "begun")
    engine.send({"type": "abandon", "taskId": "task_1"})
    answers = []
    while (message := engine.receive()[0])["type"] != "idle":
        answers += [(message["taskId"], message["type"])] if "usage" in message else []
    assert answers == [("task_0", "done"), ("task_1", "failed"), ("task_2", "done")]
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("sizes", "tasks"), [([4], 2), ([2, 1], 2), ([5], 1), ([1, 1, 2], 2), ([1] * 65, 65)], ids=str)
def test_plans_that_are_not_those_of_the_tasks_are_refused(results: Path, sizes: list[int], tasks: int) -> None:
    with Engine() as engine:
        message = run_message(results, tasks=[task(f"task_{number}") for number in range(tasks)])
        engine.send({**message, "plan": {"kind": "dsl", "bytes": sizes}}, b"abcd" if tasks < 65 else b"a" * 65)
        with pytest.raises(EngineGone, match=r"plans of a query run|65 tasks"):
            engine.receive()


@pytest.mark.smoke
def test_a_forked_child_does_not_speak_for_the_engine(engine: Engine, results: Path) -> None:
    def fork(frame: pl.DataFrame) -> pl.DataFrame:
        import os
        import sys

        child = os.fork()
        if child == 0:
            print("out of the child")
            sys.stdout.flush()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        print("out of the parent")
        return frame

    talk = engine.converse(run_message(results), serialize(pl.LazyFrame({"a": [1]}).map_batches(fork)))
    assert talk.one("done")["result"]["rows"] == 1
    assert talk.log_lines("stdout") == ["out of the parent"]


def test_a_module_of_the_working_directory_does_not_stand_in_for_one_of_the_engine(
    tmp_path: Path, results: Path
) -> None:
    for name in ("msgpack", "obstore", "logs", "frazil_engine", "random", "json", "zlib"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')")
    destination = tmp_path / "out"
    with Engine() as engine:
        message = run_message(results, cwd=str(tmp_path), destination=str(destination), format="parquet", seed=1)
        assert engine.converse(message, serialize(pl.LazyFrame({"a": [1]}))).one("done")["result"]["rows"] == 1


def test_relative_paths_mean_the_working_directory_of_the_run(engine: Engine, tmp_path: Path, results: Path) -> None:
    (tmp_path / "data.csv").write_text("a\n5\n")
    plan = serialize(pl.scan_csv("data.csv"))
    message = run_message(results, cwd=str(tmp_path), destination="made/here.csv", format="csv")
    assert engine.converse(message, plan).one("done")["result"]["locations"] == [str(tmp_path / "made" / "here.csv")]
    assert (tmp_path / "made" / "here.csv").read_text() == "a\n5\n"


def test_relative_paths_mean_it_for_all_queries_of_a_run_after_python_has_run(tmp_path: Path, results: Path) -> None:
    (tmp_path / "data.csv").write_text("a\n5\n")
    plan = serialize(pl.scan_csv("data.csv"))
    with Engine() as engine:
        python = serialize(pl.LazyFrame({"a": [1]}).map_batches(lambda frame: frame))
        engine.converse(run_message(results), python).one("done")
        talk = engine.converse({**many_message(results, [plan] * 3), "cwd": str(tmp_path)}, plan * 3)
    heads = [body for message, body in talk.messages if message["type"] == "done"]
    assert [pl.read_ipc_stream(head).item() for head in heads] == [5, 5, 5]


def test_modules_of_the_working_directory_are_imported_afresh_by_every_run(
    engine: Engine, tmp_path: Path, results: Path
) -> None:
    def use(frame: pl.DataFrame) -> pl.DataFrame:
        import frazil_test_local  # pyright: ignore[reportMissingImports]

        return frame.with_columns(a=pl.lit(frazil_test_local.VALUE, dtype=pl.Int64))

    plan = serialize(pl.LazyFrame({"a": [0]}).map_batches(use))
    for value in (11, 22):
        (tmp_path / "frazil_test_local.py").write_text(f"VALUE = {value}\n{'#' * value}\n")
        talk = engine.converse(run_message(results, cwd=str(tmp_path)), plan)
        assert pl.read_ipc_stream(talk.head).item() == value
