"""What user code prints and warns of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from driver import Conversation, Engine, run_message, serialize


def run(engine: Engine, results: Path, function: Callable[[pl.DataFrame], pl.DataFrame]) -> Conversation:
    return engine.converse(run_message(results), serialize(pl.LazyFrame({"a": [1]}).map_batches(function)))


@pytest.mark.smoke
def test_prints_come_line_by_line_before_the_answer(engine: Engine, results: Path) -> None:
    def speak(frame: pl.DataFrame) -> pl.DataFrame:
        import sys

        print("one")
        print("two", end=" ")
        print("words\n\nand four")
        print("to stderr", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes \xff\n")
        sys.stdout.write("no end")
        return frame

    talk = run(engine, results, speak)
    assert talk.log_lines("stdout") == ["one", "two words", "", "and four", "bytes \ufffd", "no end"]
    assert talk.log_lines("stderr") == ["to stderr"]
    assert {message["taskId"] for message in talk.all("log")} == {"task_1"}
    kinds = [message["type"] for message, _ in talk.messages]
    assert kinds.index("done") == len(kinds) - 2


def test_prints_come_from_threads_of_polars_and_of_the_user_alike(engine: Engine, results: Path) -> None:
    def element(value: int) -> int:
        print("element", value)
        return value

    def threaded(frame: pl.DataFrame) -> pl.DataFrame:
        import threading

        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
        return frame

    frame = (
        pl.LazyFrame({"a": [5]}).map_batches(threaded).select(pl.col("a").map_elements(element, return_dtype=pl.Int64))
    )
    talk = engine.converse(run_message(results), serialize(frame))
    assert sorted(talk.log_lines("stdout")) == ["element 5", "from a thread"]
    assert {message["taskId"] for message in talk.all("log")} == {"task_1"}


def test_a_long_log_is_cut_with_a_mark(engine: Engine, results: Path) -> None:
    def shout(frame: pl.DataFrame) -> pl.DataFrame:
        for _ in range(3_000):
            print("x" * 999)
        return frame

    lines = run(engine, results, shout).log_lines("stdout")
    assert sum(len(line) + 1 for line in lines[:-1]) <= 1024 * 1024
    assert len(lines) == 1024 * 1024 // 1000 + 1
    assert "dropped" in lines[-1]
    assert run(engine, results, lambda frame: (print("again"), frame)[1]).log_lines("stdout") == ["again"]


def test_a_gigabyte_is_dropped_as_fast_as_it_is_printed(engine: Engine, results: Path) -> None:
    def shout(frame: pl.DataFrame) -> pl.DataFrame:
        # One line without an end, and then very many.
        print("z" * 500_000_000)
        for _ in range(500):
            print("y\n" * 500_000)
        return frame

    lines = run(engine, results, shout).log_lines("stdout")
    assert sum(len(line) + 1 for line in lines[:-1]) <= 1024 * 1024
    assert len(lines) == 1024 * 1024 // 8193 + 1 and set(lines[0]) == {"z"}
    assert "dropped" in lines[-1]


def test_a_long_line_comes_in_parts(engine: Engine, results: Path) -> None:
    def shout(frame: pl.DataFrame) -> pl.DataFrame:
        print("y" * 20_000)
        return frame

    lines = run(engine, results, shout).log_lines("stdout")
    assert [len(line) for line in lines] == [8192, 8192, 3616]


def test_what_is_written_to_the_descriptors_stays_on_the_pipes(results: Path) -> None:
    def write(frame: pl.DataFrame) -> pl.DataFrame:
        import os
        import subprocess

        os.write(1, b"raw out\n")
        subprocess.run(["sh", "-c", "echo child err >&2"], check=True)
        return frame

    with Engine() as engine:
        talk = run(engine, results, write)
        assert talk.all("log") == []
        engine.send({"type": "exit"})
        out, err = engine.process.communicate(timeout=60)
    assert (out, err) == (b"raw out\n", b"child err\n")


@pytest.mark.smoke
def test_warnings_come_with_the_result_each_once(engine: Engine, results: Path) -> None:
    def complain(frame: pl.DataFrame) -> pl.DataFrame:
        import warnings

        for _ in range(5):
            warnings.warn("careful", UserWarning, stacklevel=1)
        warnings.warn("slow", RuntimeWarning, stacklevel=1)
        for number in range(200):
            warnings.warn(f"number {number}", UserWarning, stacklevel=1)
        return frame

    for _ in range(2):
        found = run(engine, results, complain).one("done")["result"]["warnings"]
        assert found[:3] == [
            {"category": "UserWarning", "message": "careful"},
            {"category": "RuntimeWarning", "message": "slow"},
            {"category": "UserWarning", "message": "number 0"},
        ]
        assert len(found) == 100


def test_warnings_of_polars_come_with_the_result(engine: Engine, results: Path) -> None:
    def unstable(frame: pl.DataFrame) -> pl.DataFrame:
        with pl.Config(warn_unstable=True):
            frame.lazy().sink_batches(lambda _batch: None)
        return frame

    found = run(engine, results, unstable).one("done")["result"]["warnings"]
    assert [warning["category"] for warning in found] == ["UnstableWarning"]


def test_a_failed_run_still_says_what_it_printed(engine: Engine, results: Path) -> None:
    def fail(frame: pl.DataFrame) -> pl.DataFrame:
        print("before the fall")
        raise ValueError("down")

    talk = run(engine, results, fail)
    assert talk.log_lines("stdout") == ["before the fall"]
    assert talk.one("failed")["error"]["message"] == "down"
