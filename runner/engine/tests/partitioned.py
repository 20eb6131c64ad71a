"""Runs partitioned jobs through an engine, and works out with plain Polars what they must yield."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from driver import Conversation, Engine, Message, partition_by, run_message, serialize, task
from polars.io.plugins import register_io_source

LARGE_MEMORY = 4 << 30
# So little that the input is repartitioned into pieces.
SMALL_MEMORY = 1


@dataclass
class KeyResult:
    """What became of one key."""

    values: dict[str, str | None]
    path: str
    answer: Message

    @property
    def frame(self) -> pl.DataFrame:
        assert self.answer["type"] == "done", self.answer
        return pl.read_ipc(self.answer["result"]["locations"][0])

    @property
    def error(self) -> Message:
        return self.answer["error"]


@dataclass
class Partitioned:
    """A partitioned job."""

    keys: list[KeyResult]
    split: Message
    talk: Conversation


def split(
    engine: Engine,
    results: Path,
    frame: pl.LazyFrame | str,
    *keys: str | pl.Expr,
    max_keys: int = 10_000,
    **fields: Any,
) -> Conversation:
    message = run_message(
        results, kind="split", partitionBy=partition_by(*keys, max_keys=max_keys), **plan_kind(frame), **fields
    )
    return engine.converse(message, plan_body(frame))


def plan_kind(frame: pl.LazyFrame | str) -> dict[str, Any]:
    return {"plan": {"kind": "sql" if isinstance(frame, str) else "dsl"}}


def plan_body(frame: pl.LazyFrame | str) -> bytes:
    return frame.encode() if isinstance(frame, str) else serialize(frame)


def run(
    engine: Engine,
    results: Path,
    frame: pl.LazyFrame | str,
    *keys: str | pl.Expr,
    memory: int = LARGE_MEMORY,
    **fields: Any,
) -> Partitioned:
    """Finds the keys and runs them all in one batch."""
    found = split(engine, results, frame, *keys, memoryBytes=memory).one("keys")
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    if not tasks:
        return Partitioned([], found, Conversation())
    message = run_message(
        results, kind="key", tasks=tasks, partitionBy=partition_by(*keys), splitState=found["splitState"],
        **{"memoryBytes": memory, **plan_kind(frame), **fields},
    )  # fmt: skip
    talk = engine.converse(message, plan_body(frame))
    answers = {answer["taskId"]: answer for answer, _ in talk.messages if answer["type"] in ("done", "failed")}
    assert len(answers) == len(tasks) == len(talk.all("done")) + len(talk.all("failed"))
    keyed = [KeyResult(key["values"], key["path"], answers[f"task_{row}"]) for row, key in enumerate(found["keys"])]
    return Partitioned(keyed, found, talk)


def head(body: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(body))


def python_source(frame: pl.DataFrame) -> pl.LazyFrame:
    """The same rows, from a function."""

    def read(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        found = frame if n_rows is None else frame.head(n_rows)
        found = found if predicate is None else found.filter(predicate)
        yield found if with_columns is None else found.select(with_columns)

    return register_io_source(read, schema=frame.schema)
