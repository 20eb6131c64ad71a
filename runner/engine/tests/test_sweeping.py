"""What attempts leave behind that end without an answer: removed by the next attempt, or when the job has ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import Engine, EngineGone, Message, partition_by, run_message, serialize, task
from partitioned import SMALL_MEMORY, split
from polars.testing import assert_frame_equal

NEW = pl.DataFrame({"a": [1, 2, 3]})


def tree(folder: Path) -> list[str]:
    """Every file and empty directory below, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return sorted(str(path.relative_to(folder)) for path in paths)


def sweep_message(results: Path | str, destination: Path | str | None, **fields: Any) -> Message:
    output = {"format": "parquet", "mode": "error", "options": {}, "storageOptions": fields.pop("storageOptions", {})}
    return {
        "type": "sweep",
        "jobId": "job_1",
        "attempts": [],
        "output": {**output, "destination": None if destination is None else str(destination)},
        "resultsLocation": str(results),
        "cwd": None,
        **fields,
    }


def sweep(engine: Engine, results: Path | str, destination: Path | str | None, **fields: Any) -> Any:
    talk = engine.converse(sweep_message(results, destination, **fields))
    assert [message["type"] for message, _ in talk.messages] == ["swept", "idle"]
    return talk.one("swept")["error"]


def lose_staged(results: Path, destination: Path, **fields: Any) -> Message:
    """Stages an output as an engine does, and goes no further, as one that is killed. Gives the manifest."""
    from frazil_engine.destinations import Staging
    from frazil_engine.protocol import read_runs
    from frazil_engine.sinks import write_result

    message = run_message(results, destination=str(destination), format="parquet", **fields)
    [run] = read_runs({**message, "plan": {"kind": "dsl", "bytes": [0]}}, b"")
    staging = Staging(run, run.tasks[0])
    return staging.seal(write_result(NEW.lazy(), staging.target, "parquet", {}, "streaming", 0), [])


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_sweep_removes_what_killed_engines_staged_and_nothing_else(
    engine: Engine, results: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "d"
    lose_staged(results, root / name)
    lose_staged(results, root / name, tasks=[task("task_2", 3)])
    lose_staged(results, root / name, jobId="job_2")
    (root / "mine.txt").write_text("mine")
    for _ in range(2):
        assert sweep(engine, results, root / name) is None
        file = "part-0.parquet" if name == "out" else name
        assert tree(root) == [f".frazil-staging/job_2/task_1-1/data/{file}", "mine.txt"]
    assert sweep(engine, results, root / name, jobId="job_2") is None
    assert tree(root) == ["mine.txt"]


def test_a_relative_destination_is_swept_where_it_was_written(engine: Engine, results: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    lose_staged(results, Path("d/out"), cwd=str(tmp_path))
    assert (tmp_path / "d" / ".frazil-staging").exists()
    assert sweep(engine, results, "d/out", cwd=str(tmp_path)) is None
    assert tree(tmp_path) == ["d"]


def test_the_next_attempt_removes_what_the_earlier_ones_of_its_task_staged(
    engine: Engine, results: Path, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    for number in (1, 2):
        lose_staged(results, root / "out", tasks=[task("task_1", number)])
    lose_staged(results, root / "out", tasks=[task("task_2", 1)])
    message = run_message(results, destination=str(root / "out"), format="parquet", tasks=[task("task_1", 3)])
    engine.converse(message, serialize(NEW.lazy())).one("done")
    assert tree(root) == [".frazil-staging/job_1/task_2-1/data/part-0.parquet", "out/part-0.parquet"]


def test_an_attempt_that_comes_late_does_not_touch_the_staged_output_of_the_one_that_took_its_place(
    engine: Engine, results: Path, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    manifest = lose_staged(results, root / "out", tasks=[task("task_1", 2)])
    late = run_message(results, destination=str(root / "out"), format="parquet", tasks=[task("task_1", 1)])
    engine.converse(late, serialize(NEW.lazy()), verb="abandon").one("failed")
    fenced = {
        "type": "republish",
        "jobId": "job_1",
        "task": task("task_1", 4),
        "manifest": manifest,
        "storageOptions": {},
        "cwd": None,
    }
    engine.converse(fenced).one("done")
    assert tree(root) == ["out/part-0.parquet"]
    assert_frame_equal(pl.read_parquet(root / "out"), NEW)


def test_results_of_attempts_that_lost_are_removed_by_the_next_one_and_by_a_sweep(
    engine: Engine, results: Path
) -> None:
    def run(task_id: str, attempt: int) -> None:
        message = run_message(results, tasks=[task(task_id, attempt)], format="parquet")
        engine.converse(message, serialize(NEW.lazy())).one("done")

    folder = results / "job_1"
    run("task_1", 1)
    # What an engine leaves that is killed while it writes.
    (folder / "task_1" / ".2.parquet.tmp").write_bytes(b"half")
    run("task_1", 3)
    assert tree(folder) == ["task_1/3.parquet"]
    run("task_2", 1)
    run("task_3", 1)
    (folder / "task_3" / ".2.parquet.tmp").write_bytes(b"half")
    lost = [("task_1", 1), ("task_1", 2), ("task_2", 1), ("task_3", 2), ("task_9", 1)]
    attempts = [{"taskId": task_id, "attempt": attempt} for task_id, attempt in lost]
    assert sweep(engine, results, None, attempts=attempts) is None
    assert tree(folder) == ["task_1/3.parquet", "task_3/1.parquet"]


def lay_pieces(engine: Engine, results: Path, data: pl.LazyFrame, *keys: str) -> tuple[Message, list[Message]]:
    """A split whose input was repartitioned. Gives its answer and its key tasks."""
    found = split(engine, results, data, *keys, memoryBytes=SMALL_MEMORY).one("keys")
    assert found["stored"] is True
    assert (results / "job_1" / ".pieces" / "task_1-1" / "complete").exists()
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    return found, tasks


def run_keys(
    engine: Engine, results: Path, data: pl.LazyFrame, found: Message, tasks: list[Message], *keys: str
) -> Any:
    message = run_message(
        results, kind="key", tasks=tasks, partitionBy=partition_by(*keys), splitState=found["splitState"],
        memoryBytes=SMALL_MEMORY,
    )  # fmt: skip
    return engine.converse(message, serialize(data))


def test_a_sweep_removes_the_repartitioned_input_of_every_split_attempt(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"k": ["a", "b"] * 3, "v": range(6)})
    lay_pieces(engine, results, data, "k")
    half = results / "job_1" / ".pieces" / "task_1-2" / "0" / "abc"
    half.mkdir(parents=True)
    (half / "000000.arrow").write_bytes(b"half")
    assert sweep(engine, results, None) is None
    assert not (results / "job_1").exists()


def test_the_next_split_removes_the_pieces_of_the_one_before(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"k": ["a", "b"] * 3, "v": range(6)})
    lay_pieces(engine, results, data, "k")
    split(engine, results, data, "k", memoryBytes=SMALL_MEMORY, tasks=[task("task_1", 2)]).one("keys")
    assert [path.name for path in (results / "job_1" / ".pieces").iterdir()] == ["task_1-2"]


@pytest.mark.smoke
def test_keys_that_are_tried_again_after_the_sweep_read_the_input_itself(engine: Engine, results: Path) -> None:
    # The second source has only one of the two keys: for it, no piece may not be taken for no rows.
    left = pl.DataFrame({"day": [1, 1, 2, 2], "hour": [0, 1, 0, 1], "v": [1, 2, 3, 4]})
    right = pl.DataFrame({"day": [1, 2], "w": [10, 20]})
    data = left.lazy().join(right.lazy(), on="day")
    found, tasks = lay_pieces(engine, results, data, "day", "hour")
    assert sweep(engine, results, None) is None
    talk = run_keys(engine, results, data, found, tasks, "day", "hour")
    assert len(talk.all("done")) == 4
    rows = pl.concat(pl.read_ipc(done["result"]["locations"][0]) for done in talk.all("done"))
    assert_frame_equal(rows.sort("v"), left.join(right, on="day").sort("v"))


def test_keys_whose_pieces_go_while_they_run_are_tried_again(engine: Engine, results: Path) -> None:
    pieces = str(results / "job_1" / ".pieces")

    def remove(frame: pl.DataFrame) -> pl.DataFrame:
        shutil.rmtree(pieces, ignore_errors=True)
        return frame

    left = pl.LazyFrame({"day": [1, 1, 2], "hour": [0, 1, 0], "v": [1, 2, 3]})
    data = left.join(pl.LazyFrame({"day": [1, 2], "w": [10, 20]}), on="day").map_batches(remove)
    found, tasks = lay_pieces(engine, results, data, "day", "hour")
    talk = run_keys(engine, results, data, found, tasks, "day", "hour")
    answers = [message for message, _ in talk.messages if message["type"] in ("done", "failed")]
    assert [answer["type"] for answer in answers] == ["done", "failed", "failed"]
    for failed in answers[1:]:
        assert (failed["error"]["code"], failed["retryable"]) == ("storage_failed", True)
    again = [{**one, "attempt": 2} for one in tasks[1:]]
    assert len(run_keys(engine, results, data, found, again, "day", "hour").all("done")) == 2


@pytest.mark.parametrize("name", ["..", "a/b", "", "job_1\0", "job_1\n"])
def test_an_id_that_is_no_name_is_refused(results: Path, name: str) -> None:
    from frazil_engine.protocol import ProtocolFault, read_sweep

    for fields in ({"jobId": name}, {"attempts": [{"taskId": name, "attempt": 1}]}):
        with pytest.raises(ProtocolFault, match="is not an id"):
            read_sweep(sweep_message(results, None, **fields))


def test_a_sweep_of_what_is_no_id_ends_the_engine_before_anything_is_removed(results: Path) -> None:
    results.mkdir()
    with Engine() as engine:
        engine.send(sweep_message(results, None, jobId=".."))
        with pytest.raises(EngineGone, match="is not an id"):
            engine.receive()
    assert results.exists()


def test_a_sweep_that_storage_does_not_allow_says_so(
    engine: Engine, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".frazil-staging").mkdir()
    (tmp_path / ".frazil-staging" / "job_1").symlink_to(tmp_path / "elsewhere")
    error = sweep(engine, results, tmp_path / "out")
    assert error is not None and "symbolic link" in error["message"]
    assert (tmp_path / "elsewhere").exists()
