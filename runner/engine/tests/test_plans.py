"""Plan bytes that could crash Polars, run on and on, or smuggle Python in, are found before Polars sees them."""

from __future__ import annotations

import copy
import os
import random
import sys
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pytest
from driver import SOURCE, Engine, run_message, serialize
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal

HEADER_BYTES = 79


def check(data: bytes) -> Any:
    from frazil_engine.plans import check_plan

    return check_plan(data)


def refusal(data: bytes) -> Any:
    from frazil_engine.errors import Failure

    with pytest.raises(Failure) as caught:
        check(data)
    return caught.value


def sample() -> pl.LazyFrame:
    left = pl.LazyFrame({"a": [1, 2, 3], "b": ["x", "y", None]}).filter(pl.col("a") > 1)
    return left.join(pl.LazyFrame({"a": [2, 3]}), on="a").group_by("b").agg(pl.col("a").sum())


def change(frame: pl.LazyFrame, edit: Any) -> bytes:
    """The plan's bytes after `edit(arena)`."""
    data = frame.serialize()
    arena = msgpack.unpackb(data[HEADER_BYTES:], strict_map_key=False)
    edit(arena)
    return data[:HEADER_BYTES] + msgpack.Packer().pack(arena)


def input_of(arena: Any, slot: int) -> tuple[dict[str, Any], str]:
    """The fields of a node, and the name of the one that leads to its input."""
    fields = next(iter(arena["dsl_plans"][slot]["value"].values()))
    return fields, next(name for name in fields if name.startswith("input"))


def last_slot(arena: Any) -> int:
    return arena["root"]["idx"]


def make_cycle(arena: Any) -> None:
    fields, name = input_of(arena, last_slot(arena))
    fields[name] = {"idx": last_slot(arena), "version": 1}


def make_long_cycle(arena: Any) -> None:
    first = next(slot for slot, entry in enumerate(arena["dsl_plans"]) if entry["value"] and "Filter" in entry["value"])
    fields, name = input_of(arena, first)
    fields[name] = arena["root"]


def dangle(arena: Any) -> None:
    fields, name = input_of(arena, last_slot(arena))
    fields[name] = {"idx": 999, "version": 1}


def refer_to_a_vacant_entry(arena: Any) -> None:
    fields, name = input_of(arena, last_slot(arena))
    fields[name] = {"idx": 0, "version": 0}


def refer_to_another_version(arena: Any) -> None:
    fields, name = input_of(arena, last_slot(arena))
    fields[name] = {"idx": fields[name]["idx"], "version": 3}


def hide_a_cycle_in_an_array(arena: Any) -> None:
    fields, name = input_of(arena, last_slot(arena))
    fields[name] = [last_slot(arena), 1]


def dangle_a_frame(arena: Any) -> None:
    scan = next(entry["value"] for entry in arena["dsl_plans"] if entry["value"] and "DataFrameScan" in entry["value"])
    scan["DataFrameScan"]["df"] = {"idx": 50, "version": 1}


def lose_the_root(arena: Any) -> None:
    arena["root"] = {"idx": 77, "version": 1}


def add_a_part(arena: Any) -> None:
    arena["more"] = []


def nest_a_plan(arena: Any) -> None:
    fields, _ = input_of(arena, last_slot(arena))
    fields["keys"] = [copy.deepcopy(arena)]


def deepen(count: int) -> Any:
    def edit(arena: Any) -> None:
        entry = arena["dsl_plans"][last_slot(arena)]
        for _ in range(count):
            following = copy.deepcopy(entry)
            fields = next(iter(following["value"].values()))
            fields["input"] = dict(arena["root"])
            arena["dsl_plans"].append(following)
            arena["root"] = {"idx": len(arena["dsl_plans"]) - 1, "version": 1}

    return edit


BAD_EDITS = [
    make_cycle, make_long_cycle, dangle, refer_to_a_vacant_entry, refer_to_another_version, hide_a_cycle_in_an_array,
    dangle_a_frame, lose_the_root, add_a_part, nest_a_plan, deepen(10_001),
]  # fmt: skip


@pytest.mark.parametrize("edit", BAD_EDITS, ids=lambda edit: edit.__name__)
def test_a_plan_that_refers_wrongly_is_refused(edit: Any) -> None:
    assert refusal(change(sample(), edit)).code == "invalid_plan"


@pytest.mark.smoke
def test_a_refused_plan_leaves_the_process_as_it_was(engine: Engine, results: Path) -> None:
    good = sample().serialize()
    for data in (
        b"",
        b"nonsense" * 50,
        good[:-1],
        good + b"\0",
        change(sample(), make_cycle),
        change(sample(), dangle),
    ):
        failed = engine.converse(run_message(results), data)
        assert failed.one("failed")["error"]["code"] == "invalid_plan"
        assert failed.all("opened") == []
    assert engine.converse(run_message(results), good).one("done")["result"]["rows"] == 2


def test_an_entry_with_two_values_is_refused(engine: Engine, results: Path) -> None:
    """The check would see the one and Polars the other."""
    data = pl.LazyFrame({"a": [1]}).serialize()
    arena = msgpack.unpackb(data[HEADER_BYTES:], strict_map_key=False)
    pack = msgpack.Packer().pack
    entry = next(entry for entry in arena["dsl_plans"] if entry["value"] is not None)
    once = pack("value") + pack(entry["value"])
    assert data.count(once) == 1
    twice = data.replace(b"\x82" + once, b"\x83" + once + once)
    assert len(twice) > len(data)
    error = engine.converse(run_message(results), twice).one("failed")["error"]
    assert error["code"] == "invalid_plan"


def test_names_that_were_harmless_before_are_looked_at_where_they_matter() -> None:
    """Maps of which the names are known are passed over: what makes one remarkable must not be."""

    def options(secret: str) -> Any:
        def edit(arena: Any) -> None:
            fields, _ = input_of(arena, last_slot(arena))
            fields["keys"] = [{"plain": 1}, {"config": {"plain": [["secret_access_key", secret]]}}]

        return edit

    def sink(arena: Any) -> None:
        fields, name = input_of(arena, last_slot(arena))
        fields["inputs"] = [{"Sink": fields[name]}]

    for secret in ("first-secret", "second-secret"):
        assert check(change(sample(), options(secret))).secrets == {secret}
    for _ in range(2):
        assert refusal(change(sample(), sink)).code == "invalid_plan"
    python = pl.LazyFrame({"a": [1]}).map_batches(lambda frame: frame).serialize()
    assert [check(python).has_python, check(sample().serialize()).has_python, check(python).has_python] == [
        True,
        False,
        True,
    ]


def test_every_truncation_is_refused() -> None:
    data = sample().serialize()
    for end in range(len(data)):
        assert refusal(data[:end]).code in ("invalid_plan", "unsupported_polars")


def test_a_plan_of_another_release_is_refused(engine: Engine, results: Path) -> None:
    data = bytearray(sample().serialize())
    data[20:24] = b"beef" if data[20:24] != b"beef" else b"feed"
    error = engine.converse(run_message(results), bytes(data)).one("failed")["error"]
    assert error["code"] == "unsupported_polars"


def test_a_plan_over_the_size_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from frazil_engine import plans

    data = sample().serialize()
    monkeypatch.setattr(plans, "PLAN_BYTES_MAX", len(data) - 1)
    assert refusal(data).code == "too_large"


def test_bytes_changed_at_random_never_end_the_process(engine: Engine, results: Path) -> None:
    data = sample().serialize()
    chance = random.Random(5)
    for _ in range(150):
        changed = bytearray(data)
        changed[chance.randrange(HEADER_BYTES, len(data))] = chance.randrange(256)
        talk = engine.converse(run_message(results), bytes(changed))
        assert len(talk.all("done")) + len(talk.all("failed")) == 1


def test_a_deep_chain_of_nodes_is_accepted_up_to_the_limit() -> None:
    frame = pl.LazyFrame({"a": [1]}).with_columns(b=pl.col("a"))
    check(change(frame, deepen(9_990)))


@pytest.mark.smoke
def test_a_deep_expression_runs_as_it_does_locally(engine: Engine, results: Path) -> None:
    total = pl.col("a")
    for _ in range(700):
        total = total + 1
    frame = pl.LazyFrame({"a": [5]}).select(total)
    talk = engine.converse(run_message(results), serialize(frame))
    assert pl.read_ipc_stream(talk.head).item() == 705


def test_an_expression_deeper_than_the_limit_is_refused(engine: Engine, results: Path) -> None:
    total = pl.col("a")
    for _ in range(4_000):
        total = total + 1
    data = pl.LazyFrame({"a": [5]}).select(total).serialize()
    error = engine.converse(run_message(results), data).one("failed")["error"]
    assert error["code"] == "invalid_plan" and "deeper" in error["message"]


def test_values_without_end_are_refused() -> None:
    data = sample().serialize()
    assert refusal(data[:HEADER_BYTES] + b"\x83" + b"\xa4root" + b"\x91" * 1_000_000).code == "invalid_plan"
    assert refusal(data[:HEADER_BYTES] + b"\xdd\xff\xff\xff\xff").code == "invalid_plan"


@pytest.mark.parametrize("lazy_sink", ["sink_parquet", "sink_csv", "sink_ipc", "sink_ndjson"])
def test_a_plan_with_a_sink_of_its_own_is_refused(lazy_sink: str, tmp_path: Path) -> None:
    plan = getattr(sample(), lazy_sink)(tmp_path / "out", lazy=True)
    failure = refusal(plan.serialize())
    assert failure.code == "invalid_plan" and "sink" in failure.detail


def python_plans() -> dict[str, pl.LazyFrame]:
    frame = pl.LazyFrame({"a": [1, 2]})
    column = pl.col("a")

    def function(*values: Any, **_named: Any) -> Any:
        return values[0]

    def source(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        yield pl.DataFrame({"a": [1]})

    return {
        "map_elements": frame.select(column.map_elements(function, return_dtype=pl.Int64)),
        "map_batches": frame.select(column.map_batches(function, return_dtype=pl.Int64)),
        "frame map_batches": frame.map_batches(function),
        "map_groups": frame.group_by("a").map_groups(function, schema={"a": pl.Int64}),
        "reduce": frame.select(pl.reduce(function, [column], return_dtype=pl.Int64)),
        "name.map": frame.select(column.name.map(lambda name: name + "!")),
        "rolling_map": frame.select(column.rolling_map(function, 2)),
        "io source": register_io_source(source, schema={"a": pl.Int64}),
        "pipe_with_schema": frame.pipe_with_schema(lambda piped, _schema: piped),
        "credential provider": pl.scan_parquet("s3://bucket/data.parquet", credential_provider=lambda: ({}, None)),
        "deep inside": pl.concat(
            [frame, frame.join(frame.select(column.map_batches(function, return_dtype=pl.Int64)), on="a")]
        ),
    }


@pytest.mark.smoke
@pytest.mark.parametrize("name", list(python_plans()))
def test_python_in_a_plan_is_found(name: str) -> None:
    assert check(python_plans()[name].serialize()).has_python is True
    assert check(serialize(python_plans()[name])).has_python is True


def test_plans_without_python_are_known_as_such() -> None:
    plain = [
        sample(),
        pl.scan_parquet(
            "s3://bucket/x.parquet",
            storage_options={"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region": "c"},
            credential_provider=None,
        ),
        pl.scan_csv("x.csv").filter(pl.col("a").is_in(list(range(1000)))).sort("a").head(3),
        pl.concat([pl.scan_ndjson("x"), pl.scan_ipc("y")]),
        pl.LazyFrame({"a": [1]}).select(pl.col("a").rolling_mean(2), b=pl.lit(pl.Series([1, 2, 3, 4, 5, 6]))),
    ]
    assert [check(frame.serialize()).has_python for frame in plain] == [False] * len(plain)


HIDING = """
import frazil_engine.plans as plans
plans.names_python = lambda name, is_set: False
plans.pickle_version = lambda value: None
"""


@pytest.fixture
def careless_engine(tmp_path: Path) -> Any:
    """An engine whose check of plan bytes finds no Python at all."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    with Engine(env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{tmp_path}"}) as started:
        yield started


def test_a_pickle_that_the_check_missed_is_announced_before_it_is_loaded(
    careless_engine: Engine, results: Path
) -> None:
    talk = careless_engine.converse(
        run_message(results), serialize(pl.LazyFrame({"a": [1]}).map_batches(lambda frame: frame))
    )
    assert [message["type"] for message, _ in talk.messages] == ["opened", "done", "idle"]
    assert talk.one("opened")["python"] is True


@pytest.mark.smoke
def test_a_function_of_an_expression_that_the_check_missed_is_not_loaded(
    careless_engine: Engine, results: Path
) -> None:
    frame = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_batches(lambda column: column, return_dtype=pl.Int64))
    talk = careless_engine.converse(run_message(results), serialize(frame))
    assert talk.one("opened")["python"] is False
    assert talk.one("failed")["error"]["code"] == "invalid_plan"
    assert "hidden" in talk.one("failed")["error"]["message"]


@pytest.mark.smoke
def test_functions_of_another_patch_release_of_python_run(engine: Engine, results: Path) -> None:
    def double(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(pl.col("a") * 2)

    own = bytes([1, *sys.version_info[1:3]])
    for frame in (
        pl.LazyFrame({"a": [4]}).map_batches(double),
        pl.LazyFrame({"a": [4]}).select(pl.col("a").map_batches(lambda s: s * 2, return_dtype=pl.Int64)),
    ):
        data = frame.serialize()
        assert data.count(own) == 1
        foreign = data.replace(own, bytes([1, own[1], own[2] + 1]))
        assert pl.read_ipc_stream(engine.converse(run_message(results), foreign).head).item() == 8


def test_functions_of_another_minor_release_of_python_are_refused(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"a": [4]}).map_batches(lambda frame: frame).serialize()
    own = bytes([1, *sys.version_info[1:3]])
    error = engine.converse(run_message(results), data.replace(own, bytes([1, 5, 0]))).one("failed")["error"]
    assert error["code"] == "unsupported_python" and "3.5" in error["message"]


@pytest.mark.smoke
@pytest.mark.parametrize("alias", ["read_parquet", "READ_PARQUET"])
def test_sql_over_table_functions(engine: Engine, results: Path, tmp_path: Path, alias: str) -> None:
    data = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "read_ndjson('z')"]})
    data.write_parquet(tmp_path / "d.parquet")
    sql = f"SELECT b, a * 2 AS twice FROM {alias}('{tmp_path}/d.parquet') WHERE a > 1 ORDER BY a -- read_ndjson('it')"
    talk = engine.converse(run_message(results, plan={"kind": "sql"}), sql.encode())
    assert talk.one("opened")["python"] is False
    assert_frame_equal(pl.read_ipc_stream(talk.head), data.filter(pl.col("a") > 1).select("b", twice=pl.col("a") * 2))


@pytest.mark.parametrize(
    ("name", "write"),
    [("csv", "write_csv"), ("ipc", "write_ipc"), ("ndjson", "write_ndjson"), ("json", "write_ndjson")],
)
def test_sql_reads_every_format(engine: Engine, results: Path, tmp_path: Path, name: str, write: str) -> None:
    data = pl.DataFrame({"a": [1, 2], "b": ["read_ndjson('z')", "it''s"]})
    getattr(data, write)(tmp_path / "d")
    sql = f"SELECT a, b, 'read_ndjson(''q'')' AS c FROM read_{name}('{tmp_path}/d')"
    talk = engine.converse(run_message(results, plan={"kind": "sql"}), sql.encode())
    assert_frame_equal(pl.read_ipc_stream(talk.head), data.with_columns(c=pl.lit("read_ndjson('q')")))


def test_wrong_sql_is_a_failed_query(engine: Engine, results: Path) -> None:
    error = engine.converse(run_message(results, plan={"kind": "sql"}), b"SELECT FROM WHERE").one("failed")["error"]
    assert error["code"] == "query_failed" and "SQL" in error["type"]


def test_sql_does_not_see_the_names_of_the_engine(engine: Engine, results: Path) -> None:
    error = engine.converse(run_message(results, plan={"kind": "sql"}), b"SELECT * FROM frame").one("failed")["error"]
    assert error["code"] == "query_failed"
