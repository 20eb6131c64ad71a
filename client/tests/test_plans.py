"""Plan bytes: what is recognised as Python, what can't travel, and destinations and options of sinks."""

from __future__ import annotations

import io
import json
import math
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_server import FakeServer
from polars.io.plugins import register_io_source

import frazil as pc
from frazil import _plans
from frazil._outputs import destination_text, format_of, make_sink
from frazil._plans import has_python, serialise
from frazil.errors import UnsupportedArgument

A = pl.LazyFrame({"a": [1, 2], "g": [1, 1]})


def python_source(*_: Any) -> Any:
    yield pl.DataFrame({"a": [1]})


WITH_PYTHON: dict[str, Any] = {
    "map_elements": lambda: A.select(pl.col("a").map_elements(lambda x: x * x + 1, return_dtype=pl.Int64)),
    "map_elements of a library function": lambda: A.select(
        pl.col("a").map_elements(math.sqrt, return_dtype=pl.Float64)
    ),
    "map_elements of a builtin": lambda: A.select(pl.col("a").map_elements(str, return_dtype=pl.String)),
    "map_batches of an expression": lambda: A.select(pl.col("a").map_batches(lambda s: s, return_dtype=pl.Int64)),
    "map_batches of a frame": lambda: A.map_batches(lambda frame: frame),
    "map_batches of a library function": lambda: A.map_batches(operator.methodcaller("head", 1)),
    "map_batches of a method": lambda: A.map_batches(pl.DataFrame.unique),
    "reduce": lambda: A.select(pl.reduce(operator.add, [pl.col("a"), pl.col("g")])),
    "fold": lambda: A.select(pl.fold(pl.lit(0), lambda x, y: x + y, [pl.col("a")])),
    "map_groups": lambda: A.group_by("g").map_groups(lambda frame: frame, schema={"a": pl.Int64, "g": pl.Int64}),
    "name.map": lambda: A.select(pl.all().name.map(lambda name: name + "_")),
    "an IO source": lambda: register_io_source(python_source, schema={"a": pl.Int64}),
    "a credential provider": lambda: pl.scan_parquet("s3://b/x.parquet", credential_provider=lambda: ({}, None)),
}
WITHOUT_PYTHON: dict[str, Any] = {
    "a local scan": lambda: pl.scan_parquet("/data/x.parquet").filter(pl.col("a") > 1),
    "a relative scan": lambda: pl.scan_csv("x.csv"),
    "an s3 scan": lambda: pl.scan_parquet("s3://b/x.parquet", credential_provider=None),
    "an in-memory frame": lambda: A.group_by("g").agg(pl.sum("a")),
    "a join": lambda: A.join(A, on="g"),
    "all values of a byte": lambda: pl.LazyFrame({"a": pl.Series(list(range(256)), dtype=pl.UInt8)}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITH_PYTHON)
def test_plans_with_python_are_recognised(name: str) -> None:
    assert has_python(serialise(WITH_PYTHON[name]()))


@pytest.mark.parametrize("name", WITHOUT_PYTHON)
def test_plans_without_python_are_not_taken_for_such(name: str) -> None:
    assert not has_python(serialise(WITHOUT_PYTHON[name]()))


def test_the_submission_says_whether_there_is_python(server: FakeServer) -> None:
    A.remote().collect()
    A.map_batches(lambda frame: frame).remote().collect()
    A.remote().partition_by(k=pl.col("a").map_batches(lambda s: s % 2, return_dtype=pl.Int64)).execute()
    assert [job.spec["client"]["hasPython"] for job in server.submitted()] == [False, True, True]


def test_python_functions_run_as_they_are(server: FakeServer) -> None:
    factor = 3

    def scale(value: int) -> int:
        return value * factor + len(os.sep)

    lf = A.select(pl.col("a").map_elements(scale, return_dtype=pl.Int64))
    assert lf.remote().collect()["a"].to_list() == [4, 7]


SCRIPT = """
import functools, json, os, pickle, sys
import polars as pl, frazil as pc
from polars.io.plugins import register_io_source

def frame_function(frame): return frame
def value_function(value): return value
def name_function(name): return name + "_"
def provider(): return {}, None
def source(with_columns, predicate, n_rows, batch_size): yield pl.DataFrame({"a": [1]})
class Callable:
    def __call__(self, frame): return frame

from frazil._plans import serialise
frame = pl.LazyFrame({"a": [1]})
plans = [
    frame.map_batches(frame_function),
    frame.map_batches(Callable()),
    frame.map_batches(functools.partial(frame_function)),
    frame.select(pl.all().name.map(name_function)),
    frame.select(pl.col("a").map_elements(value_function, return_dtype=pl.Int64)),
    frame.group_by("a").map_groups(frame_function, schema={"a": pl.Int64}),
    register_io_source(source, schema={"a": pl.Int64}),
]
original = pickle.dumps
for number, plan in enumerate(plans):
    with open(os.path.join(sys.argv[1], f"{number}.plan"), "wb") as file:
        file.write(serialise(plan))
assert pickle.dumps is original
"""


@pytest.mark.filterwarnings("ignore")
def test_functions_of_a_script_travel_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    source = str(Path(pc.__file__).parents[1])
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": source})
    plans = sorted(tmp_path.glob("*.plan"))
    assert len(plans) == 7
    for plan in plans:  # Here, `__main__` is another module.
        frame = pl.LazyFrame.deserialize(io.BytesIO(plan.read_bytes())).collect()
        assert frame.rows() == [(1,)]


def test_functions_keep_the_name_of_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    import cloudpickle

    table = cloudpickle.Pickler._dispatch_table  # type: ignore[attr-defined]
    reduce = table[types.CodeType]

    def without_file(code: types.CodeType) -> Any:
        make, arguments = reduce(code)
        return make, tuple("<dynamic-code>" if value == code.co_filename else value for value in arguments)

    # As cloudpickle does from 3.1.3 on.
    monkeypatch.setitem(table, types.CodeType, without_file)
    query = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(lambda value: value, return_dtype=pl.Int64))
    assert b"<dynamic-code>" in query.serialize()
    plan = serialise(query)
    assert b"<dynamic-code>" not in plan
    assert __file__.encode() in plan
    assert table[types.CodeType] is without_file


def test_columns_of_objects_can_not_travel() -> None:
    lf = pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}).lazy()
    with pytest.raises(UnsupportedArgument, match="Object"):
        lf.remote().collect()


def test_a_plan_above_the_limit_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plans, "PLAN_BYTES_MAX", 1000)
    with pytest.raises(pc.LimitExceeded, match="storage"):
        pl.LazyFrame({"a": range(1000)}).remote().collect()


def test_only_lazyframes_are_queries() -> None:
    with pytest.raises(UnsupportedArgument, match="DataFrame"):
        pc.spawn(pl.DataFrame({"a": [1]}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("s3://bucket/key/", "s3://bucket/key/"),
        ("abfss://c@a.dfs.core.windows.net/x", "abfss://c@a.dfs.core.windows.net/x"),
        ("/abs/x.parquet", "/abs/x.parquet"),
        ("/abs/../x", "/x"),
        ("file:///a%20b", "/a b"),
        ("file:///a#b?c", "/a#b?c"),
        ("file:///a%23b", "/a#b"),
        ("file:/a/b", "/a/b"),
        ("file://localhost/a", "/a"),
        ("file:///a/b.parquet/", "/a/b.parquet/"),
        ("/abs/x.parquet/", "/abs/x.parquet/"),
        ("/abs//x/../", "/abs/"),
        ("/", "/"),
        (Path("/abs"), "/abs"),
    ],
)
def test_destinations(given: Any, expected: str | None) -> None:
    assert destination_text(given) == expected


def test_destinations_below_home_and_here(tmp_path: Path) -> None:
    assert destination_text("~/x") == str(tmp_path / "home" / "x")
    assert destination_text("x/y.csv") == str(tmp_path / "x" / "y.csv")
    assert destination_text("x/y.csv/") == f"{tmp_path}/x/y.csv/"
    assert destination_text("file:x") == str(tmp_path / "file:x")
    for empty in ("", "file://", "file://localhost"):
        with pytest.raises(UnsupportedArgument, match="empty"):
            destination_text(empty)
    with pytest.raises(UnsupportedArgument, match="names a machine, elsewhere"):
        destination_text("file://elsewhere/x")
    with pytest.raises(UnsupportedArgument, match="partition_by"):
        destination_text(io.BytesIO())  # type: ignore[arg-type]


def test_a_destinations_extension_names_its_format() -> None:
    assert format_of("s3://b/x.CSV", "parquet") == "csv"
    assert format_of("x.arrow", "parquet") == "ipc"
    assert format_of("x.jsonl", "parquet") == "ndjson"
    assert format_of("x", "parquet") == "parquet"
    assert format_of(None, "ipc") == "ipc"


def test_options_of_polars_own_sinks_travel() -> None:
    options = {"compression": "snappy", "statistics": {"min": True}, "row_group_size": 10, "maintain_order": False}
    assert make_sink("parquet", "/x", "append", None, options).payload() == {
        "format": "parquet",
        "destination": "/x",
        "mode": "append",
        "options": options,
        "storageOptions": {},
    }


def test_a_compatibility_level_travels_as_its_number() -> None:
    assert make_sink("ipc", None, "error", None, {"compat_level": pl.CompatLevel.oldest()}).options == {
        "compat_level": 0
    }


@pytest.mark.parametrize(
    "options",
    [
        {"mkdir": True},
        {"lazy": False},
        {"credential_provider": "auto"},
        {"credential_provider": None},
        {"engine": "auto"},
        {"sync_on_close": None},
        {"sync_on_close": "data"},
        {"sync_on_close": "all"},
        {"check_extension": True},
        {"check_extension": False},
        {"optimizations": pl.QueryOptFlags()},
    ],
)
def test_options_that_ask_for_nothing_are_left_out(options: dict[str, Any]) -> None:
    assert make_sink("parquet", "/x", "error", None, options).options == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"credential_provider": lambda: None}, "storage_options="),
        ({"lazy": True}, "lazy"),
        ({"engine": "streaming"}, "remote"),
        ({"optimizations": pl.QueryOptFlags(predicate_pushdown=False)}, "optimis"),
        ({"optimizations": pl.QueryOptFlags.none()}, "optimis"),
        ({"sync_on_close": "never"}, "synced"),
        ({"check_extension": "csv"}, "name is taken as it is"),
        ({"partition_by": "day"}, "partition_by"),
        ({"use_pyarrow": True}, "Polars itself"),
        ({"nonsense": 1}, "no argument 'nonsense'"),
        ({"metadata": dict}, "function"),
        ({"metadata": {"a": object()}}, "can't travel"),
        ({"row_group_size": float("nan")}, "can't travel"),
    ],
)
def test_options_that_can_not_travel_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedArgument, match=said) as raised:
        pl.LazyFrame({"a": [1]}).remote().write_parquet("/x", **options)
    assert next(iter(options)) in str(raised.value)


def test_storage_options_are_text() -> None:
    sink = make_sink("parquet", "s3://b", "error", {"a": True, "b": 1, "c": None, "d": "x"}, {})
    assert sink.storage_options == {"a": "true", "b": "1", "d": "x"}
    assert "storage" not in repr(sink)
    with pytest.raises(UnsupportedArgument, match="dict"):
        make_sink("parquet", "s3://b", "error", {"a": {}}, {})


@pytest.mark.parametrize("arguments", [{"mode": "replace"}, {"format": "xlsx"}])
def test_unknown_modes_and_formats_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedArgument, match=next(iter(arguments.values()))):
        make_sink(
            **{
                "format": "csv",
                "destination": None,
                "mode": "error",
                "storage_options": None,
                "options": {},
                **arguments,
            }
        )


def test_the_payload_is_json(server: FakeServer) -> None:
    A.remote().execute()
    json.dumps(server.submitted()[0].spec)
