"""Batches of keys: each answered on its own, with one read of the input for all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import SOURCE, Engine, partition_by, run_message, serialize, task
from partitioned import LARGE_MEMORY, SMALL_MEMORY, head, python_source, run, split
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal
from test_sweeping import sweep_message


@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
def test_one_failing_key_does_not_touch_the_others(engine: Engine, results: Path, memory: int) -> None:
    data = pl.DataFrame({"k": ["good", "bad", "fine"] * 2, "v": ["1", "x", "2"] * 2})
    job = run(
        engine,
        results,
        data.lazy().filter(pl.col("v").cast(pl.Int64) > 0).select(pl.col("v").cast(pl.Int64).sum()),
        "k",
        memory=memory,
    )
    answers = {key.values["k"]: key for key in job.keys}
    assert answers["bad"].error["code"] == "query_failed" and "x" in answers["bad"].error["message"]
    assert answers["good"].frame.item() == 2 and answers["fine"].frame.item() == 4


def test_a_failing_function_names_its_own_key_only(engine: Engine, results: Path) -> None:
    def check(frame: pl.DataFrame) -> pl.DataFrame:
        print("seen", frame.get_column("k")[0])
        if frame.get_column("k")[0] == 2:
            raise ValueError("two is one too many")
        return frame

    job = run(engine, results, pl.LazyFrame({"k": [1, 2, 3]}).map_batches(check), "k")
    assert [key.answer["type"] for key in job.keys] == ["done", "failed", "done"]
    assert job.keys[1].error["message"] == "two is one too many"
    said = {(message["taskId"], message["text"]) for message in job.talk.all("log")}
    assert said == {("task_0", "seen 1"), ("task_1", "seen 2"), ("task_2", "seen 3")}


def test_a_key_whose_error_has_no_message_is_answered(engine: Engine, results: Path) -> None:
    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not telling")

    def check(value: int) -> int:
        if value == 2:
            raise Shy
        return value

    query = pl.LazyFrame({"k": [1, 2, 3]}).select(pl.col("k").map_elements(check, return_dtype=pl.Int64))
    job = run(engine, results, query, "k")
    assert [key.answer["type"] for key in job.keys] == ["done", "failed", "done"]
    assert (job.keys[1].error["code"], job.keys[1].error["type"]) == ("user_code_failed", "Shy")


@pytest.mark.smoke
def test_each_key_is_staged_and_published_on_its_own(engine: Engine, results: Path, tmp_path: Path) -> None:
    data = pl.LazyFrame({"k": ["a", "b", None], "v": [1, 2, 3]})
    job = run(engine, results, data, "k", destination=str(tmp_path / "out"), format="parquet")
    assert [message["type"] for message, _ in job.talk.messages].count("staged") == 3
    paths = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert paths == [
        "out/k=__HIVE_DEFAULT_PARTITION__/part-0.parquet",
        "out/k=a/part-0.parquet",
        "out/k=b/part-0.parquet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert pl.read_parquet(tmp_path / "out" / "k=a" / "part-0.parquet", hive_partitioning=False).to_dicts() == [
        {"k": "a", "v": 1}
    ]


def test_decisions_come_in_any_order_and_some_keys_are_abandoned(engine: Engine, results: Path, tmp_path: Path) -> None:
    data = pl.LazyFrame({"k": list(range(6)), "v": 1})
    plan = serialize(data)
    fields: dict[str, Any] = {"partitionBy": partition_by("k")}
    found = engine.converse(run_message(results, kind="split", **fields), plan).one("keys")
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    message = run_message(
        results,
        kind="key",
        tasks=tasks,
        splitState=found["splitState"],
        destination=str(tmp_path / "out"),
        format="csv",
        **fields,
    )
    engine.send(message, plan)
    staged: list[str] = []
    while len(staged) < 6:
        answer, _ = engine.receive()
        if answer["type"] == "staged":
            staged.append(answer["taskId"])
    for task_id in sorted(staged, reverse=True):
        engine.send({"type": "abandon" if task_id in ("task_1", "task_4") else "publish", "taskId": task_id})
    answers: dict[str, Any] = {}
    while (answer := engine.receive()[0])["type"] != "idle":
        answers[answer["taskId"]] = answer
    assert {task_id for task_id, answer in answers.items() if answer["type"] == "failed"} == {"task_1", "task_4"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["k=0", "k=2", "k=3", "k=5"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


MESSAGES_BEFORE_RUNS = """
import time

import frazil_engine.runs as runs

serve = runs.serve_runs

def serve_late(session, items):
    while items[0].kind == "key" and session.events.empty():
        time.sleep(0.001)
    serve(session, items)

runs.serve_runs = serve_late
"""


def test_a_key_that_is_abandoned_before_its_run_begins_is_answered(results: Path, tmp_path: Path) -> None:
    """The reader of messages has the next one before the main thread has taken up the run."""
    (tmp_path / "sitecustomize.py").write_text(MESSAGES_BEFORE_RUNS)
    data = pl.LazyFrame({"k": [1, 2]})
    fields: dict[str, Any] = {"partitionBy": partition_by("k"), "destination": str(tmp_path / "out"), "format": "csv"}
    with Engine(env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"}) as engine:
        found = split(engine, results, data, "k").one("keys")
        tasks = [
            task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])
        ]
        engine.send(
            run_message(results, kind="key", tasks=tasks, splitState=found["splitState"], **fields), serialize(data)
        )
        engine.send({"type": "abandon", "taskId": "task_0"})
        answers: dict[str, Any] = {}
        while (answer := engine.receive()[0])["type"] != "idle":
            if answer["type"] == "staged" and answer["taskId"] == "task_1":
                engine.send({"type": "publish", "taskId": "task_1"})
            if "usage" in answer:
                answers[answer["taskId"]] = answer
    assert answers["task_0"]["error"]["code"] == "stale_attempt"
    assert answers["task_1"]["type"] == "done"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["k=2"]


def test_a_nightly_job_can_run_twice(engine: Engine, results: Path, tmp_path: Path) -> None:
    data = pl.LazyFrame({"k": ["a", "b"], "v": [1, 2]})
    fields: dict[str, Any] = {"destination": str(tmp_path / "out"), "format": "parquet"}
    run(engine, results, data, "k", **fields)
    second = run(engine, results, pl.LazyFrame({"k": ["b", "c"], "v": [20, 30]}), "k", mode="error", **fields)
    assert [key.answer["type"] for key in second.keys] == ["failed", "done"]
    assert second.keys[0].error["code"] == "destination_not_empty"
    run(engine, results, pl.LazyFrame({"k": ["b"], "v": [21]}), "k", mode="overwrite", **fields)
    found = pl.read_parquet(tmp_path / "out", hive_partitioning=False).sort("k")
    assert found.rows() == [("a", 1), ("b", 21), ("c", 30)]


@pytest.mark.parametrize("kind", ["parquet", "python"])
def test_a_key_whose_piece_is_gone_is_read_from_the_source(
    engine: Engine, results: Path, tmp_path: Path, kind: str
) -> None:
    data = pl.DataFrame({"k": [1, 2, 1], "v": [5, 6, 7]})
    data.write_parquet(tmp_path / "data.parquet")
    plan = serialize(python_source(data) if kind == "python" else pl.scan_parquet(tmp_path / "data.parquet"))
    fields: dict[str, Any] = {"partitionBy": partition_by("k"), "memoryBytes": SMALL_MEMORY}
    found = engine.converse(run_message(results, kind="split", **fields), plan).one("keys")
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    fields |= {"splitState": found["splitState"], "destination": str(tmp_path / "out"), "mode": "overwrite"}
    for batch in (tasks[:1], tasks):
        talk = engine.converse(run_message(results, kind="key", tasks=batch, **fields), plan)
        done = {message["taskId"]: body for message, body in talk.messages if message["type"] == "done"}
        assert head(done["task_0"]).get_column("v").to_list() == [5, 7]
    assert head(done["task_1"]).get_column("v").to_list() == [6]
    # Published, every key has freed its rows, and the last one the folders.
    assert not (results / "job_1" / ".pieces").exists()


@pytest.mark.smoke
def test_rows_of_a_key_stay_where_another_attempt_may_read_them(engine: Engine, results: Path, tmp_path: Path) -> None:
    """A frozen engine that goes on may have lost its keys long since; without a destination nothing tells it."""
    rows = pl.DataFrame({"k": [1, 2, 1], "v": [5, 6, 7]})
    rows.write_parquet(tmp_path / "data.parquet")
    plan = serialize(pl.scan_parquet(tmp_path / "data.parquet"))
    fields: dict[str, Any] = {"partitionBy": partition_by("k"), "memoryBytes": SMALL_MEMORY}
    found = engine.converse(run_message(results, kind="split", **fields), plan).one("keys")
    # What sweeps the job when it has ended.
    assert found["stored"] is True
    laid = sorted((results / "job_1" / ".pieces").rglob("*"))
    # Who reads the source instead of the pieces sees something else.
    rows.with_columns(pl.col("v") * 100).write_parquet(tmp_path / "data.parquet")
    for attempt in (1, 2):
        tasks = [task(f"task_{row}", attempt, keyToken=key["token"]) for row, key in enumerate(found["keys"])]
        message = run_message(results, kind="key", tasks=tasks, splitState=found["splitState"], **fields)
        talk = engine.converse(message, plan)
        done = {message["taskId"]: body for message, body in talk.messages if message["type"] == "done"}
        assert head(done["task_0"]).get_column("v").to_list() == [5, 7]
        assert head(done["task_1"]).get_column("v").to_list() == [6]
        assert sorted((results / "job_1" / ".pieces").rglob("*")) == laid
    assert engine.converse(sweep_message(results, None)).one("swept")["error"] is None
    assert not (results / "job_1" / ".pieces").exists()


STORAGE_FILLS_UP = """
import frazil_engine.pieces as pieces

write = pieces.write_bytes

def write_until_it_is_full(place, data):
    if str(place).endswith(pieces.COMPLETE):
        raise pieces.pl.exceptions.ComputeError("no room for " + str(place))
    write(place, data)

pieces.write_bytes = write_until_it_is_full
"""


def test_a_split_that_fails_leaves_none_of_its_pieces(results: Path, tmp_path: Path) -> None:
    """Of a failure that is not retried the control plane thinks that it left nothing."""
    (tmp_path / "sitecustomize.py").write_text(STORAGE_FILLS_UP)
    with Engine(env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"}) as engine:
        talk = split(engine, results, pl.LazyFrame({"k": [1, 2, 1]}), "k", memoryBytes=SMALL_MEMORY)
    assert talk.one("failed")["error"]["message"].startswith("no room for ")
    assert [path for path in results.rglob("*") if path.is_file()] == []


STORAGE_AWAY = """
import frazil_engine.pieces as pieces

def fail(*_arguments):
    raise OSError("storage is away")

looks = iter([True])
pieces.is_complete = lambda root: next(looks, None) or fail()
pieces.list_piece = fail
"""

STORAGE_KEEPS = """
import frazil_engine.pieces as pieces

def fail(*_arguments):
    raise OSError("nothing can be removed")

pieces.remove_piece = fail
"""


@pytest.mark.parametrize("trouble", [STORAGE_AWAY, STORAGE_KEEPS], ids=["away", "keeps"])
def test_every_key_is_answered_while_storage_fails(engine: Engine, results: Path, tmp_path: Path, trouble: str) -> None:
    data = pl.LazyFrame({"k": [1, 2, 1], "v": [5, 6, 7]})
    fields: dict[str, Any] = {"partitionBy": partition_by("k"), "memoryBytes": SMALL_MEMORY}
    found = engine.converse(run_message(results, kind="split", **fields), serialize(data)).one("keys")
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    message = run_message(
        results, kind="key", tasks=tasks, splitState=found["splitState"], destination=str(tmp_path / "out"), **fields
    )
    (tmp_path / "sitecustomize.py").write_text(trouble)
    with Engine(env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"}) as other:
        talk = other.converse(message, serialize(data))
        if trouble == STORAGE_KEEPS:
            assert len(talk.all("done")) == 2
        else:
            failed = talk.all("failed")
            assert [answer["error"]["code"] for answer in failed] == ["storage_failed"] * 2
            assert [(answer["error"]["message"], answer["retryable"]) for answer in failed] == [
                ("storage is away", True)
            ] * 2
        # The engine goes on.
        other.converse(run_message(results), serialize(data)).one("done")


def test_batches_of_some_keys_read_only_theirs(engine: Engine, results: Path, tmp_path: Path) -> None:
    data = pl.DataFrame({"k": [number // 100 for number in range(1_000)], "v": range(1_000)})
    data.write_parquet(tmp_path / "data.parquet", row_group_size=100)
    plan = serialize(pl.scan_parquet(tmp_path / "data.parquet").select(pl.col("v").sum()))
    fields: dict[str, Any] = {"partitionBy": partition_by("k")}
    found = engine.converse(run_message(results, kind="split", **fields), plan).one("keys")
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    for batch in (tasks[:3], tasks[3:4], tasks[4:]):
        talk = engine.converse(
            run_message(results, kind="key", tasks=batch, splitState=found["splitState"], **fields), plan
        )
        for message, body in talk.messages:
            if message["type"] == "done":
                number = int(message["taskId"].removeprefix("task_"))
                assert head(body).item() == sum(range(number * 100, number * 100 + 100))
        assert len(talk.all("done")) == len(batch)


def test_the_input_is_read_once_for_all_keys(results: Path, tmp_path: Path) -> None:
    rows = 1_000_000
    wide = pl.LazyFrame({"k": [0]}).select(
        k=pl.int_range(rows) % 50, **{f"c{number}": pl.int_range(rows).hash(number) for number in range(6)}
    )
    wide.sink_parquet(tmp_path / "data.parquet", compression="uncompressed", statistics=False)
    size = os.path.getsize(tmp_path / "data.parquet")
    query = pl.scan_parquet(tmp_path / "data.parquet").group_by(pl.lit(1)).agg(pl.col("^c.$").sum())
    with Engine() as engine:
        found = split(engine, results, query, "k").one("keys")
        tasks = [
            task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])
        ]
        before = bytes_read(engine.process.pid)
        message = run_message(
            results, kind="key", tasks=tasks, partitionBy=partition_by("k"), splitState=found["splitState"]
        )
        assert len(engine.converse(message, serialize(query)).all("done")) == 50
        assert bytes_read(engine.process.pid) - before < 1.3 * size


def bytes_read(pid: int) -> int:
    """What a process has asked to be read, from caches too."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


@pytest.mark.parametrize("make", [pl.DataFrame.lazy, python_source])
def test_rows_that_do_not_fit_after_all_are_filtered_from_the_source(
    engine: Engine, results: Path, make: Callable[[pl.DataFrame], pl.LazyFrame]
) -> None:
    plan = serialize(make(pl.DataFrame({"k": ["a", "b", None, "a"], "v": [1, 2, 3, 4]})).select("v"))
    fields: dict[str, Any] = {"partitionBy": partition_by("k")}
    found = engine.converse(run_message(results, kind="split", **fields), plan).one("keys")
    assert found["splitState"]["pieces"] is None
    tasks = [task(f"task_{row}", keyToken=key["token"]) for row, key in enumerate(found["keys"])]
    message = run_message(results, kind="key", tasks=tasks, splitState=found["splitState"], memoryBytes=1, **fields)
    talk = engine.converse(message, plan)
    done = {answer["taskId"]: head(body) for answer, body in talk.messages if answer["type"] == "done"}
    assert [done[f"task_{row}"].get_column("v").to_list() for row in range(3)] == [[3], [1, 4], [2]]


def test_a_batch_of_neighbouring_keys_reads_only_their_part_of_sorted_input(results: Path, tmp_path: Path) -> None:
    rows = 400_000
    days = (pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(rows) // 4_000)).cast(pl.Date)
    data = pl.LazyFrame({"a": [0]}).select(day=days, v=pl.int_range(rows).hash(1))
    data.sink_parquet(tmp_path / "data.parquet", row_group_size=4_000)
    query = pl.scan_parquet(tmp_path / "data.parquet").select(pl.len(), pl.col("v").max())
    with Engine() as engine:
        found = split(engine, results, query, "day").one("keys")
        assert len(found["keys"]) == 100
        tasks = [task(f"task_{row}", keyToken=found["keys"][row]["token"]) for row in range(40, 50)]
        before = bytes_read(engine.process.pid)
        fields: dict[str, Any] = {"partitionBy": partition_by("day"), "splitState": found["splitState"]}
        done = engine.converse(run_message(results, kind="key", tasks=tasks, **fields), serialize(query))
        rows_of_keys = [head(body).item(0, 0) for message, body in done.messages if message["type"] == "done"]
        assert rows_of_keys == [4_000] * 10
        assert bytes_read(engine.process.pid) - before < 0.3 * os.path.getsize(tmp_path / "data.parquet")


@pytest.mark.parametrize(
    "take_one",
    [lambda rates: rates.head(1), lambda rates: rates.with_columns(pl.col("rate") + 1).head(1)],
    ids=["the first row", "the first row of a changed source"],
)
def test_rows_that_the_query_does_not_read_fail_no_key(
    engine: Engine, results: Path, take_one: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> None:
    def read(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        yield pl.DataFrame({"rate": [3]})
        if n_rows != 1:
            raise ValueError("the second rate is broken")

    rates = register_io_source(read, schema={"rate": pl.Int64})
    data = pl.DataFrame({"k": [1, 2, 1], "v": [5, 6, 7]})
    job = run(engine, results, data.lazy().join(take_one(rates), how="cross").sort("v"), "k")
    for k, key in enumerate(job.keys, 1):
        assert_frame_equal(key.frame, data.filter(k=k).join(take_one(rates).collect(), how="cross").sort("v"))

    job = run(engine, results, data.lazy().join(rates, how="cross"), "k")
    assert [key.error["code"] for key in job.keys] == ["user_code_failed"] * 2
    assert [key.error["message"] for key in job.keys] == ["the second rate is broken"] * 2


RATES = range(10)


def take(frame: pl.LazyFrame, part: slice) -> pl.LazyFrame:
    """Rows of the frame. Without an end Polars is told no length, and without anything it is told nothing."""
    if part == slice(None):
        return frame
    return frame.slice(part.start, None if part.stop is None else part.stop - part.start)


@pytest.mark.parametrize(
    ("parts", "rows_read"),
    [
        ([slice(0, 4)], 4),
        ([slice(2, 5)], 5),
        ([slice(0, 4), slice(3, 6)], 6),
        ([slice(0, 4), slice(None)], 10),
        ([slice(-2, None)], 10),
        ([slice(3, None)], 10),
    ],
    ids=str,
)
def test_a_source_is_read_once_and_no_further_than_the_query_takes_it(
    results: Path, tmp_path: Path, parts: list[slice], rows_read: int
) -> None:
    notes = tmp_path / "notes"

    def read(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        for rate in RATES[:n_rows]:
            with open(notes, "a") as file:
                file.write(f"{rate} ")
            yield pl.DataFrame({"rate": [rate]})

    rates = register_io_source(read, schema={"rate": pl.Int64})
    query = pl.LazyFrame({"k": [1, 2, 3]})
    for number, part in enumerate(parts):
        query = query.join(take(rates, part), how="cross", suffix=f"_{number}")
    with Engine() as engine:
        job = run(engine, results, query, "k")
    taken = [RATES[part] for part in parts]
    for k, key in enumerate(job.keys, 1):
        assert sorted(key.frame.rows()) == [(k, *rates) for rates in itertools.product(*taken)]
    assert [int(rate) for rate in notes.read_text().split()] == list(RATES[:rows_read])


def test_a_key_run_needs_what_its_split_has_found(engine: Engine, results: Path) -> None:
    plan = serialize(pl.LazyFrame({"k": [1]}))
    for fields in ({"splitState": None}, {"splitState": None, "partitionBy": None}):
        message = run_message(
            results,
            kind="key",
            tasks=[task("task_a", keyToken="x"), task("task_b")],
            **{"partitionBy": partition_by("k"), **fields},
        )
        failed = engine.converse(message, plan).all("failed")
        assert [answer["error"]["code"] for answer in failed] == ["invalid_request", "invalid_request"]


def test_a_source_that_fails_fails_every_key(engine: Engine, results: Path, tmp_path: Path) -> None:
    pl.DataFrame({"k": [1, 2]}).write_parquet(tmp_path / "data.parquet")
    plan = serialize(pl.scan_parquet(tmp_path / "data.parquet"))
    found = engine.converse(run_message(results, kind="split", partitionBy=partition_by("k")), plan).one("keys")
    (tmp_path / "data.parquet").unlink()
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    message = run_message(
        results, kind="key", tasks=tasks, partitionBy=partition_by("k"), splitState=found["splitState"]
    )
    failed = engine.converse(message, plan).all("failed")
    assert [answer["error"]["code"] for answer in failed] == ["storage_refused"] * 2
