"""Results without a destination: every type comes back as it was, and the answer says exactly what is there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import every_dtype
import polars as pl
import pytest
from driver import Conversation, Engine, run_message, serialize
from polars.testing import assert_frame_equal


def run(process: Engine, results: Path, frame: pl.LazyFrame, **fields: Any) -> Conversation:
    return process.converse(run_message(results, **fields), serialize(frame))


def read(location: str) -> pl.DataFrame:
    """A result as a client reads it."""
    from frazil_engine.carriers import decode_frame

    return decode_frame(pl.scan_ipc(location, glob=False)).collect()


def read_result(talk: Conversation) -> pl.DataFrame:
    """The result from its file, or from the head that is all of it."""
    locations = talk.one("done")["result"]["locations"]
    return read(locations[0]) if locations else read_head(talk.head)


def read_head(head: bytes) -> pl.DataFrame:
    from frazil_engine.carriers import decode_frame

    return decode_frame(pl.read_ipc_stream(io.BytesIO(head)).lazy()).collect()


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Also where Polars' own comparison is lenient: the order of categories, the values of nested nulls."""
    assert found.schema == expected.schema
    assert found.shape == expected.shape
    assert found.to_dicts() == expected.to_dicts() or "nan" in str(expected.to_dicts())
    assert_frame_equal(found, expected)


def source_of(frame: pl.DataFrame) -> pl.LazyFrame:
    """A query that makes the frame. A plan can't hold arrays of no width, so that expressions make these."""
    from frazil_engine.carriers import has_zero_width

    if not any(has_zero_width(dtype) for dtype in frame.schema.dtypes()):
        return frame.lazy()
    from frazil_engine.carriers import decode_frame, encode_frame

    return decode_frame(encode_frame(frame.lazy()).collect().lazy())


# Kept with its task, and in a file that either engine has written.
CHOICES: dict[str, dict[str, Any]] = {
    "kept": {},
    "streaming": {"engine": "streaming"},
    "in-memory": {"engine": "in-memory", "options": {"compression": "uncompressed"}},
}


@pytest.mark.parametrize("choice", list(CHOICES))
@pytest.mark.parametrize("case", list(every_dtype.columns()))
def test_every_type_comes_back_as_it_was(engine: Engine, results: Path, case: str, choice: str) -> None:
    full = every_dtype.columns()[case].to_frame()
    for expected in (full, full.clear(), full.head(1)):
        talk = run(engine, results, source_of(expected), **CHOICES[choice])
        result = talk.one("done")["result"]
        assert_same(read_result(talk), expected)
        assert_same(read_head(talk.head), expected)
        assert result["rows"] == expected.height
        assert result["schema"] == [{"name": "column", "dtype": str(expected.schema["column"])}]
        assert bool(result["locations"]) == (choice != "kept")
        files = [Path(location).stat().st_size for location in result["locations"]]
        assert result["bytes"] == sum(files, start=0 if files else len(talk.head))


@pytest.mark.smoke
def test_every_type_comes_back_together(engine: Engine, results: Path) -> None:
    columns = {case: column for case, column in every_dtype.columns().items() if len(column) == 3}
    expected = pl.DataFrame([column.alias(case) for case, column in columns.items()])
    talk = run(engine, results, source_of(expected))
    assert_same(read_result(talk), expected)


@pytest.mark.smoke
def test_names_of_every_kind_come_back(engine: Engine, results: Path) -> None:
    expected = pl.DataFrame({"": [1], "ü 漢字": [2], "a\n\"'\\": [3], "^x$": [4], "frazil:array[0]": [5], " ": [6]})
    for choice in ("auto", "streaming"):
        talk = run(engine, results, expected.lazy(), engine=choice)
        assert_same(read_result(talk), expected)
        assert [column["name"] for column in talk.one("done")["result"]["schema"]] == expected.columns


@pytest.mark.smoke
def test_no_columns_come_back(engine: Engine, results: Path) -> None:
    talk = run(engine, results, pl.LazyFrame())
    assert talk.one("done")["result"]["schema"] == []
    assert talk.one("done")["result"]["rows"] == 0
    assert read(talk.one("done")["result"]["locations"][0]).shape == (0, 0)


def test_no_columns_keep_their_height_where_polars_has_one(engine: Engine, results: Path) -> None:
    try:
        expected = pl.DataFrame(height=3)  # pyright: ignore[reportCallIssue]
    except TypeError:
        # Before release 2 a frame without columns has no height.
        expected = pl.DataFrame()
    talk = run(engine, results, expected.lazy())
    assert talk.one("done")["result"]["rows"] == expected.height
    assert read(talk.one("done")["result"]["locations"][0]).shape == expected.shape


@pytest.mark.smoke
@pytest.mark.parametrize(
    "frame",
    [
        pl.LazyFrame({"a": range(101)}),
        pl.LazyFrame({"a": ["x" * 70_000]}),
        pl.LazyFrame({"a": [[1] * 9]}).explode("a"),
        pl.LazyFrame({"a": [1]}).join(pl.LazyFrame({"b": [1]}), how="cross"),
        pl.LazyFrame({"a": [1]}).select(pl.int_range(5)),
    ],
    ids=["too many rows", "too many bytes", "explode", "join", "range"],
)
def test_a_result_that_is_not_small_or_a_query_that_could_grow_has_a_file(
    engine: Engine, results: Path, frame: pl.LazyFrame
) -> None:
    talk = run(engine, results, frame)
    [location] = talk.one("done")["result"]["locations"]
    assert_same(read(location), frame.collect())


def test_no_result_is_kept_where_no_head_is_wanted(engine: Engine, results: Path) -> None:
    result = run(engine, results, pl.LazyFrame({"a": [1]}), headBytesMax=0).one("done")["result"]
    assert read(result["locations"][0]).item() == 1


def test_nothing_lies_beside_a_result(engine: Engine, results: Path) -> None:
    run(engine, results, pl.LazyFrame({"a": [1]}), engine="streaming").one("done")
    run(
        engine,
        results,
        pl.LazyFrame({"a": [1]}).select("b"),
        tasks=[{**run_message(results)["tasks"][0], "attempt": 2}],
    ).one("failed")
    assert [path.name for path in results.rglob("*") if path.is_file()] == ["1.arrow"]


@pytest.mark.parametrize(
    ("format", "extension"), [("parquet", "parquet"), ("csv", "csv"), ("ndjson", "ndjson"), ("ipc", "arrow")]
)
@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 250_000])
def test_rows_head_and_schema_are_exact_in_every_format(
    engine: Engine, results: Path, format: str, extension: str, rows: int
) -> None:
    frame = (
        pl.LazyFrame({"a": [0]})
        .select(a=pl.int_range(rows))
        .with_columns(b=pl.col("a").cast(pl.String), c=pl.col("a") * 0.5)
    )
    talk = run(engine, results, frame, format=format)
    result = talk.one("done")["result"]
    assert result["rows"] == rows
    assert [column["dtype"] for column in result["schema"]] == ["Int64", "String", "Float64"]
    assert result["locations"][0].endswith(f"/1.{extension}")
    assert_frame_equal(read_head(talk.head), frame.head(100).collect())


def test_a_head_has_fewer_rows_where_rows_are_wide(engine: Engine, results: Path) -> None:
    frame = pl.LazyFrame({"a": ["x" * 2_000] * 100})
    head = run(engine, results, frame).head
    assert len(head) <= 65_536
    assert read_head(head).height == 25


def test_there_is_no_head_where_not_even_the_schema_fits(engine: Engine, results: Path) -> None:
    frame = pl.LazyFrame({f"column_{number}": [1] for number in range(2_000)})
    talk = run(engine, results, frame, headBytesMax=20_000)
    assert talk.head == b""
    assert len(talk.one("done")["result"]["schema"]) == 2_000


def test_there_is_no_head_where_none_is_wanted(engine: Engine, results: Path) -> None:
    talk = run(engine, results, pl.LazyFrame({"a": [1, 2]}), headBytesMax=0)
    assert talk.head == b""
    assert talk.one("done")["result"]["rows"] == 2
    assert talk.one("done")["result"]["schema"] == [{"name": "a", "dtype": "Int64"}]


def test_a_head_of_huge_rows_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from frazil_engine import sinks
    from frazil_engine.places import local_target

    pl.DataFrame({"a": ["x" * 1_000] * 1_000}).write_ipc(tmp_path / "big")
    monkeypatch.setattr(sinks, "HEAD_READ_BYTES_MAX", 10_000)
    written = sinks.read_written(local_target(str(tmp_path / "big")), "ipc", 65_536)
    assert written.rows == 1_000
    assert read_head(written.head).height == 9


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("format", "options"),
    [
        (
            "csv",
            {"separator": ";", "include_bom": True, "null_value": "NA", "quote_style": "always", "float_precision": 2},
        ),
        (
            "csv",
            {
                "include_header": False,
                "line_terminator": "\r\n",
                "decimal_comma": True,
                "separator": "|",
                "batch_size": 7,
            },
        ),
        ("parquet", {"compression": "lz4", "statistics": False, "row_group_size": 1000, "metadata": {"made": "here"}}),
        ("ipc", {"compression": "zstd"}),
        ("ndjson", {"maintain_order": True}),
    ],
)
def test_options_are_those_of_polars(
    engine: Engine, results: Path, tmp_path: Path, format: str, options: dict[str, Any]
) -> None:
    frame = pl.LazyFrame({"a": list(range(300_000))}).with_columns(
        b=pl.col("a") / 3, c=pl.when(pl.col("a") % 2 == 0).then(pl.lit("x,;\n"))
    )
    location = run(engine, results, frame, format=format, options=options).one("done")["result"]["locations"][0]
    getattr(frame, f"sink_{format}")(tmp_path / "local", **options)
    if format in ("csv", "ndjson"):
        assert Path(location).read_bytes() == (tmp_path / "local").read_bytes()
    else:
        reader = pl.read_parquet if format == "parquet" else pl.read_ipc
        assert_frame_equal(reader(location), reader(tmp_path / "local"))
        assert abs(Path(location).stat().st_size - (tmp_path / "local").stat().st_size) < 20_000


def test_compressed_text_reads_back(engine: Engine, results: Path) -> None:
    from frazil_engine.sinks import accepted_options

    frame = pl.LazyFrame({"a": list(range(300_000))})
    if "compression" not in accepted_options("csv"):
        assert (
            "compression"
            in run(engine, results, frame, format="csv", options={"compression": "gzip"}).one("failed")["error"][
                "message"
            ]
        )
        return
    location = run(engine, results, frame, format="csv", options={"compression": "gzip"}).one("done")["result"][
        "locations"
    ][0]
    assert Path(location).read_bytes()[:2] == b"\x1f\x8b"
    assert_frame_equal(pl.read_csv(location), frame.collect())


def test_arrays_of_no_width_are_refused_in_an_ipc_file_of_the_users_own(
    engine: Engine, results: Path, tmp_path: Path
) -> None:
    frame = source_of(every_dtype.columns()["List of Array of no width"].to_frame())
    error = run(engine, results, frame, destination=str(tmp_path / "out.arrow")).one("failed")["error"]
    assert error["code"] == "result_unsupported" and '"column"' in error["message"]


def test_seeds_make_random_results_repeat(engine: Engine, results: Path) -> None:
    def draw(frame: pl.DataFrame) -> pl.DataFrame:
        import random

        import numpy

        drawn = [random.random(), float(numpy.random.random())]
        return frame.with_columns(pl.Series("drawn", [drawn] * frame.height))

    frame = (
        pl.LazyFrame({"a": list(range(100))})
        .select(pl.col("a").shuffle())
        .map_batches(draw, schema={"a": pl.Int64, "drawn": pl.List(pl.Float64)})
    )
    run(engine, results, frame).one("done")
    first, again, other = (
        read_head(run(engine, results, frame, seed=seed, engine="in-memory").head) for seed in (7, 7, 8)
    )
    assert_frame_equal(first, again)
    assert not first.equals(other)
