"""Finds the keys of a partitioned job, and repartitions its input once where it is too big to be split in memory."""

from __future__ import annotations

from typing import Any

import polars as pl

from frazil_engine import hive, pieces
from frazil_engine.carriers import columns
from frazil_engine.errors import Failure, secret_values
from frazil_engine.key_columns import encode_schema, encode_token, to_physical, to_texts
from frazil_engine.keyed_plans import KeyedPlan, KeyedSource, analyse
from frazil_engine.limits import KEYS_PER_RUN_MAX
from frazil_engine.opening import open_plan
from frazil_engine.outcomes import Answer, fail
from frazil_engine.protocol import Run
from frazil_engine.sampling import DistinctRows, read_distinct, row_bytes, too_many_keys
from frazil_engine.session import Clock, Session, set_seeds

# What splitting in memory takes of it: the rows as read, the rows by key, and as much again for the queries.
MEMORY_FACTOR = 3.0
SOURCE_COLUMN = "__frazil_sources"


def serve_split(session: Session, run: Run) -> None:
    """Answers with `keys`, or `failed`."""
    task = run.tasks[0]
    clock = Clock()
    secrets = secret_values(run.output.storage_options)
    with session.logs.attribute_to(task.task_id):
        try:
            if run.partition_by is None:
                raise Failure("invalid_request", "A split run names no keys.")
            plan = open_plan(run, session.announce_python)
            secrets |= plan.secrets
            set_seeds(run.seed, plan.has_python)
            session.progress(task.task_id, "finding keys")
            keyed = analyse(plan)
            answer = Answer(split(session, run, keyed, run.partition_by.max_keys))
        except BaseException as error:
            answer = fail(task, error, secrets)
    session.channel.send({**answer.message, "usage": clock.usage()})


def split(session: Session, run: Run, plan: KeyedPlan, max_keys: int) -> dict[str, Any]:
    found = {source.number: read_keys_of(plan, source, max_keys) for source in plan.complete}
    keys = unite(plan, {number: rows.distinct for number, rows in found.items() if rows.distinct is not None})
    if keys.height > max_keys:
        raise too_many_keys(max_keys)
    values = keys.drop(SOURCE_COLUMN)
    state: dict[str, Any] = {"keySchema": encode_schema(values.schema), "pieces": None}
    if keys.height > 0 and (
        keys.height > KEYS_PER_RUN_MAX or estimate_bytes(plan, found) * MEMORY_FACTOR > run.memory_bytes
    ):
        session.progress(run.tasks[0].task_id, "repartitioning the input")
        state["pieces"] = pieces.write_pieces(run, plan, values, run.memory_bytes)
    return {
        "type": "keys",
        "taskId": run.tasks[0].task_id,
        "keys": describe_keys(keys, values),
        "splitState": state,
        "stored": state["pieces"] is not None,
    }


def read_keys_of(plan: KeyedPlan, source: KeyedSource, max_keys: int) -> DistinctRows:
    rows = read_distinct(source.frame.select(source.exprs[name].alias(name) for name in plan.names), max_keys)
    if rows.is_over:
        raise too_many_keys(max_keys)
    return rows


def unite(plan: KeyedPlan, found: dict[int, pl.DataFrame]) -> pl.DataFrame:
    """The keys of all sources in a fixed order, with the numbers of the sources in which each occurs. Types become
    their supertype.
    """
    marked = [rows.with_columns(pl.lit(number, dtype=pl.Int64).alias(SOURCE_COLUMN)) for number, rows in found.items()]
    together = pl.concat(marked, how="vertical_relaxed")
    names = columns(plan.names)
    return together.group_by(names).agg(pl.col(SOURCE_COLUMN).sort()).sort(names, nulls_last=False)


def describe_keys(keys: pl.DataFrame, values: pl.DataFrame) -> list[dict[str, Any]]:
    texts = to_texts(values).rows(named=True)
    physical = to_physical(values).rows()
    sources = keys.get_column(SOURCE_COLUMN).to_list()
    return [
        {"values": text, "path": hive.partition_path(text), "token": encode_token(list(exact), numbers)}
        for text, exact, numbers in zip(texts, physical, sources, strict=True)
    ]


def estimate_bytes(plan: KeyedPlan, found: dict[int, DistinctRows]) -> float:
    """What the columns that the query needs take in memory, over all keyed sources."""
    total = 0.0
    for source in plan.keyed:
        rows = (
            found[source.number].rows_seen
            if source.number in found
            else source.frame.select(pl.len()).collect(engine="streaming").item()
        )
        total += rows * row_bytes(source.frame.select(columns(source.needed)))
    return total
