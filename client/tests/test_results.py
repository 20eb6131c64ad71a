"""Results: types that come back as they were, tables, and files of every format."""

from __future__ import annotations

import inspect
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_server import FakeServer
from polars.testing import assert_frame_equal

import frazil as pc
from frazil._dtypes import parse_dtype
from frazil._scan import scan_locations
from frazil._tables import table_html, table_text
from frazil.results import QueryResult

# Older releases panic at wide integers, and write other values of arrays than there are.
WRITES_ALL_JSON = tuple(map(int, pl.__version__.split(".")[:2])) >= (1, 44)

COLUMNS: dict[str, pl.Series] = {
    **{
        str(dtype): pl.Series([1, None], dtype=dtype)
        for dtype in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
    },
    "f32": pl.Series([1.5, None], dtype=pl.Float32),
    "f64": pl.Series([float("nan"), None]),
    "bool": pl.Series([True, None]),
    "str": pl.Series(["a;b\n", None]),
    "bin": pl.Series([b"\x00\xff", None]),
    "date": pl.Series([date(2024, 1, 1), None]),
    "time": pl.Series([time(1, 2, 3), None]),
    **{f"dt_{unit}": pl.Series([datetime(2024, 1, 1), None], dtype=pl.Datetime(unit)) for unit in ("ms", "us", "ns")},
    "dt_tz": pl.Series([datetime(2024, 1, 1), None], dtype=pl.Datetime("us", "UTC")),
    "dur": pl.Series([timedelta(seconds=1), None], dtype=pl.Duration("ms")),
    "dec": pl.Series([Decimal("1.25"), None], dtype=pl.Decimal(10, 2)),
    "cat": pl.Series(["x", None], dtype=pl.Categorical),
    "enum": pl.Series(["it's", None], dtype=pl.Enum(["it's", 'a "b"'])),
    "null": pl.Series([None, None], dtype=pl.Null),
    "list": pl.Series([[1, None], None], dtype=pl.List(pl.Int16)),
    "array": pl.Series([[[1, 2]], None], dtype=pl.Array(pl.Int32, (1, 2))),
    "struct": pl.Series([{"x y": 1, "z": ["a"]}, None], dtype=pl.Struct({"x y": pl.Int8, "z": pl.List(pl.String)})),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_every_type_comes_back_as_it_was(server: FakeServer, name: str, rows: int) -> None:
    frame = COLUMNS[name].head(rows).to_frame("x")
    result = frame.lazy().remote().execute().await_result()
    for got in (result.lazy().collect(), result.collect(), result.head):
        assert_frame_equal(got, frame, categorical_as_str=True)
    assert result.schema == frame.schema


EMPTY_ARRAYS: dict[str, tuple[pl.DataType, list[Any]]] = {
    "array": (pl.Array(pl.Int32, 0), [[], None]),
    "in a list": (pl.List(pl.Array(pl.Int32, 0)), [[[], None], []]),
    "in a struct": (pl.Struct({"a": pl.Array(pl.Int32, 0)}), [{"a": []}, {"a": None}]),
    "in an array": (pl.Array(pl.Array(pl.Int32, 0), 2), [[[], None], None]),
    "of arrays": (pl.Array(pl.Array(pl.Int32, 2), 0), [[], None]),
    "deep": (pl.List(pl.Struct({"^a$": pl.Array(pl.String, 0)})), [[{"^a$": []}, None, {"^a$": None}], None]),
}


@pytest.mark.parametrize("name", EMPTY_ARRAYS)
def test_arrays_of_width_zero_come_back(server: FakeServer, name: str) -> None:
    dtype, values = EMPTY_ARRAYS[name]
    expected = pl.Series("x", values, dtype=dtype).to_frame()
    # In a plan, such a frame can't travel either: the query makes it.
    lf = pl.LazyFrame({"a": [1]}).map_batches(
        lambda _: pl.Series("x", values, dtype=dtype).to_frame(), schema={"x": dtype}
    )
    result = lf.remote().execute().await_result()
    assert result.schema == {"x": dtype}
    for got in (result.lazy().collect(), result.collect(), result.head):
        assert_frame_equal(got, expected)


@pytest.mark.parametrize("name", COLUMNS)
def test_types_are_read_from_their_own_text(name: str) -> None:
    dtype = COLUMNS[name].dtype
    assert parse_dtype(str(dtype)) == dtype


@pytest.mark.parametrize(
    "text", ["", "Nonsense", "DataFrame", "List(", "__import__('os')", "List(x.y)", "Int64()()", "1"]
)
def test_other_text_is_no_type(text: str) -> None:
    assert parse_dtype(text) is None


def test_a_result_without_columns_comes_back(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": [1, 2]}).select([])
    result = lf.remote().execute().await_result()
    assert result.lazy().collect().shape == lf.collect().shape
    assert result.schema == pl.Schema()
    assert "shape: (0, 0)" in repr(result)


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_an_empty_result_keeps_its_types(server: FakeServer, format: str) -> None:
    lf = pl.LazyFrame({"a": [1], "d": [date(2024, 1, 1)]}).filter(pl.col("a") > 1)
    result = getattr(lf.remote(), f"write_{format}")().await_result()
    assert_frame_equal(result.lazy().collect(), lf.collect())
    assert_frame_equal(result.collect(), lf.collect())


def test_odd_paths_are_scanned_literally(server: FakeServer, tmp_path: Path) -> None:
    lf = pl.LazyFrame({"a": [1]})
    for format in ("parquet", "csv", "ipc", "ndjson"):
        destination = tmp_path / f"day=2024 [1]*? %2F {format}"
        result = getattr(lf.remote(), f"write_{format}")(destination).await_result()
        scanned = result.lazy().collect()
        assert_frame_equal(scanned, lf.collect())


@pytest.mark.parametrize(
    "options",
    [
        {"separator": "|"},
        {"include_header": False},
        {"quote_char": "'"},
        {"null_value": "NA"},
        {"line_terminator": "\r\n"},
        {"decimal_comma": True, "separator": ";"},
        {"include_bom": True},
    ],
)
def test_csv_is_read_as_it_was_written(server: FakeServer, options: dict[str, Any]) -> None:
    frame = pl.DataFrame(
        {
            "text": ["1", "x,y|'", None],
            "number": [1, None, 3],
            "small": pl.Series([1, 2, 3], dtype=pl.Int8),
            "real": [1.5, None, 2.5],
            "flag": [True, False, None],
            "day": [date(2024, 1, 1), None, date(2024, 1, 3)],
            "at": [datetime(2024, 1, 1, 12, 30), None, datetime(2024, 1, 3)],
            "time": [time(1, 2, 3), None, time(4)],
            "kind": pl.Series(["x", "y", None], dtype=pl.Enum(["x", "y"])),
        }
    )
    result = frame.lazy().remote().write_csv(**options).await_result()
    assert_frame_equal(result.lazy().collect(), frame)


def test_ndjson_is_read_as_it_was_written(server: FakeServer) -> None:
    frame = pl.DataFrame(
        {
            "text": ["1", None],
            "small": pl.Series([1, None], dtype=pl.Int8),
            "tiny": pl.Series([1, None], dtype=pl.UInt8),
            "large": pl.Series([2**63, None], dtype=pl.UInt64),
            "list": pl.Series([[1], None], dtype=pl.List(pl.Int16)),
            "struct": pl.Series(
                [{"x": 1, "y": ["a"]}, {"x": 2, "y": []}], dtype=pl.Struct({"x": pl.Int8, "y": pl.List(pl.String)})
            ),
            "day": [date(2024, 1, 1), None],
            "at": [datetime(2024, 1, 1, 12, 30), None],
            "time": [time(1, 2, 3, 500), None],
            "decimal": pl.Series([Decimal("1.25"), None], dtype=pl.Decimal(10, 2)),
            "kind": pl.Series(["x", None], dtype=pl.Enum(["x", "y"])),
        }
    )
    result = frame.lazy().remote().write_ndjson().await_result()
    assert_frame_equal(result.lazy().collect(), frame)


UTC, BERLIN = pl.Datetime("us", "UTC"), pl.Datetime("ns", "Europe/Berlin")
MOMENTS = [datetime(2024, 1, 1, 12, 30, 0, 500), None, datetime(2024, 10, 27, 1, 30)]
TEXTS: dict[str, pl.Series] = {
    "at": pl.Series(MOMENTS, dtype=pl.Datetime("ms")).dt.replace_time_zone("UTC"),
    "berlin": pl.Series(MOMENTS, dtype=pl.Datetime("ns", "UTC")).dt.convert_time_zone("Europe/Berlin"),
    "time": pl.Series([time(1, 2, 3, 500), None, time(4)]),
    "i128": pl.Series([2**100, None, -(2**100)], dtype=pl.Int128),
    "null": pl.Series([None, None, None], dtype=pl.Null),
    "kind": pl.Series(["x", None, "y"], dtype=pl.Enum(["x", "y"])),
    "decimal": pl.Series([Decimal("1.25"), None, Decimal(-1)], dtype=pl.Decimal(10, 2)),
    **({"f16": pl.Series([1.5, None, -2], dtype=pl.Float16)} if hasattr(pl, "Float16") else {}),
    **({"u128": pl.Series([2**127, None, 0], dtype=pl.UInt128)} if hasattr(pl, "UInt128") else {}),
}
NESTED: dict[str, pl.Series] = {
    "array": pl.Series([[[1, 2], [3, 4]], None, [[5, None], [1, -2]]], dtype=pl.Array(pl.Int8, (2, 2))),
    "null first": pl.Series([None, [[1, 2], [3, 4]], [[5, 6], [7, 8]]], dtype=pl.Array(pl.Int8, (2, 2))),
    "times": pl.Series([[time(1, 2)], None, [None, time(0)]], dtype=pl.List(pl.Time)),
    "pair": pl.Series([[MOMENTS[0], None], None, [None, None]], dtype=pl.Array(pl.Datetime("us"), 2)),
    "zoned": pl.Series([[MOMENTS[0], None], None, []], dtype=pl.List(UTC)),
    "struct": pl.Series(
        [{"^a$": MOMENTS[0], "b": [1]}, None, {"^a$": None, "b": []}],
        dtype=pl.Struct({"^a$": BERLIN, "b": pl.List(pl.UInt8)}),
    ),
    "wide": pl.Series([[2**100, 1], None, []], dtype=pl.List(pl.Int128)),
}


def assert_comes_back(write: str, column: pl.Series, expected: pl.Series, **options: Any) -> None:
    """With no row, with one, with a head that is all of it, and with more than a head; and with them together."""
    frames = [column.head(rows).to_frame("^x$") for rows in (0, 1, 3)] + [pl.concat([column.to_frame("^x$")] * 70)]
    made = [expected.head(rows).to_frame("^x$") for rows in (0, 1, 3)] + [pl.concat([expected.to_frame("^x$")] * 70)]
    for frame, wanted in zip(frames, made, strict=True):
        result = getattr(frame.lazy().remote(), write)(**options).await_result()
        assert result.schema == frame.schema
        assert result.lazy().collect_schema() == wanted.schema
        assert_frame_equal(result.lazy().collect(), wanted)
        assert_frame_equal(result.collect(), wanted)
    sink: Any = write.removeprefix("write_")
    results = pc.spawn_many_blocking([frame.lazy() for frame in frames], sink=sink, options=options)
    assert_frame_equal(results.collect(), pl.concat(made))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("write", ["write_csv", "write_ndjson"])
def test_text_files_give_types_back(server: FakeServer, write: str, name: str) -> None:
    if write == "write_ndjson" and name in ("i128", "u128") and not WRITES_ALL_JSON:
        pytest.skip("this Polars writes no such number as JSON")
    assert_comes_back(write, TEXTS[name], TEXTS[name])


@pytest.mark.parametrize("name", NESTED)
def test_ndjson_gives_nested_types_back(server: FakeServer, name: str) -> None:
    if name in ("array", "null first", "pair", "wide") and not WRITES_ALL_JSON:
        pytest.skip("this Polars does not write such values as JSON")
    assert_comes_back("write_ndjson", NESTED[name], NESTED[name])


def test_what_no_reader_takes_is_text_for_any_number_of_rows(server: FakeServer) -> None:
    day = pl.Series([date(2024, 1, 2), None, date(2024, 3, 4)])
    as_text = pl.Series(["02.01.2024", None, "04.03.2024"])
    assert_comes_back("write_csv", day, as_text, date_format="%d.%m.%Y")
    at = pl.Series([datetime(2024, 1, 2), None, datetime(2024, 3, 4)], dtype=UTC)
    assert_comes_back("write_csv", at, as_text, datetime_format="%d.%m.%Y")
    # Polars has no reader for ISO 8601's durations.
    durations = pl.Series([timedelta(seconds=5), None, timedelta(days=1)])
    assert_comes_back("write_ndjson", durations, pl.Series(["PT5S", None, "PT86400S"]))
    listed = pl.Series([[timedelta(seconds=5)], None, []], dtype=pl.List(pl.Duration("us")))
    assert_comes_back("write_ndjson", listed, pl.Series([["PT5S"], None, []]))


def test_several_files_are_one_frame(tmp_path: Path) -> None:
    for number in range(3):
        pl.DataFrame({"a": [number]}).write_csv(tmp_path / f"{number}.csv", include_header=False)
    files = [str(tmp_path / f"{number}.csv") for number in (2, 0, 1)]
    schema = pl.Schema({"a": pl.Int64()})
    scanned = scan_locations(files, "csv", schema, 3, {"include_header": False}, {})
    assert scanned.collect()["a"].to_list() == [2, 0, 1]


def wire(head: pl.DataFrame | None, rows: int) -> Any:
    import base64

    text = None if head is None else base64.b64encode(head.write_ipc_stream(None).getvalue()).decode()
    columns = [] if head is None else [{"name": name, "dtype": str(dtype)} for name, dtype in head.schema.items()]
    shared = {"taskId": "task_1", "frame": None, "key": None, "locations": ["/nowhere"], "format": "ipc"}
    return {**shared, "schema": columns, "rows": rows, "bytes": 1, "head": text, "warnings": []}


def test_a_whole_head_is_printed_as_polars_prints_it() -> None:
    frame = pl.DataFrame({"a": range(30)})
    assert str(QueryResult(wire(frame, 30), "job_1", None)) == str(frame)
    assert table_html(frame, 30) == frame._repr_html_()


def test_a_partial_head_says_how_many_rows_there_are_more() -> None:
    head = pl.DataFrame({"a": range(100)})
    lines = str(QueryResult(wire(head, 1_234_567), "job_1", None)).splitlines()
    assert lines[0] == "shape: (1_234_567, 1)"
    assert lines[-1] == "… 1_234_557 rows more"
    assert [line for line in lines if line.startswith("│ 9 ")] == ["│ 9   │"]
    assert not any(line.startswith("│ 10 ") for line in lines)
    assert lines.count("…") == 0
    assert "1_234_557 rows more" in QueryResult(wire(head, 1_234_567), "job_1", None)._repr_html_()
    with pl.Config(tbl_rows=3):
        assert table_text(head, 500).endswith("… 497 rows more")


def test_printing_reads_no_data() -> None:
    result = QueryResult(wire(None, 5), "job_1", None)
    assert "5 rows" in repr(result)
    assert "5 rows" in result._repr_html_()


def test_a_head_that_did_not_come_along_is_read(server: FakeServer) -> None:
    result = pl.LazyFrame({"a": range(300)}).remote().execute().await_result()
    result._wire["head"] = None
    assert result.head["a"].to_list() == list(range(100))
    assert result.schema == pl.Schema({"a": pl.Int64()})


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_a_head_without_its_first_row_is_read(server: FakeServer, format: str) -> None:
    frame = pl.DataFrame({"a": range(300), "kind": pl.Series(["x"] * 300, dtype=pl.Enum(["x"]))})
    result = getattr(frame.lazy().remote(), f"write_{format}")().await_result()
    result._wire["head"] = wire(frame.clear(), 300)["head"]
    assert "300 rows more" in repr(result)
    assert_frame_equal(result.head, frame.head(100))
    assert result.schema == frame.schema
    assert "290 rows more" in repr(result)
    assert_frame_equal(result.collect(), frame)


def test_a_result_tells_what_it_is(server: FakeServer, tmp_path: Path) -> None:
    handle = pl.LazyFrame({"a": [1, 2]}).remote().write_parquet(tmp_path / "x.parquet")
    result = handle.await_result()
    assert (result.job_id, result.rows, result.n_rows_total) == (handle.id, 2, 2)
    assert result.size_bytes == (tmp_path / "x.parquet").stat().st_size
    assert (result.frame, result.key) == (None, None)
    assert result.task_id.startswith("task_")
    assert isinstance(result, pc.QueryResult)


def test_rows_without_columns_come_back_where_polars_has_them(server: FakeServer) -> None:
    if "height" not in inspect.signature(pl.DataFrame).parameters:
        pytest.skip("this Polars has no frame with rows and no columns")
    result = pl.DataFrame(height=5).lazy().remote().execute().await_result()
    assert (result.rows, result.collect().shape, result.lazy().collect().shape) == (5, (5, 0), (5, 0))


@pytest.mark.parametrize("write", ["write_csv", "write_ndjson"])
@pytest.mark.usefixtures("server")
def test_a_column_named_like_all_of_them_comes_back(write: str) -> None:
    moments = pl.Series([MOMENTS[0], None] * 70, dtype=BERLIN)
    frame = pl.DataFrame({"*": moments, "n": range(140)})
    result = getattr(frame.lazy().remote(), write)().await_result()
    assert_frame_equal(result.lazy().collect(), frame)
