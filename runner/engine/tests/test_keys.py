"""Keys of a partitioned job: found, named, refused."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from driver import Engine
from partitioned import LARGE_MEMORY, SMALL_MEMORY, run, split
from polars.testing import assert_frame_equal

KEYS: dict[str, pl.Series] = {
    "integers": pl.Series([3, -1, None, 3, 2**62]),
    "small integers": pl.Series([3, 1, None, 255], dtype=pl.UInt8),
    "wide integers": pl.Series([2**100, None, -(2**100)], dtype=pl.Int128),
    "floats": pl.Series(
        [1.5, float("nan"), None, 0.1, -0.0, 0.0, float("inf"), float("-inf"), float("nan"), 1e300, 5e-324]
    ),
    "single floats": pl.Series([0.1, float("nan"), None, 0.1], dtype=pl.Float32),
    "booleans": pl.Series([True, None, False, True]),
    "texts": pl.Series(
        [
            "",
            "a/b",
            "..",
            ".",
            None,
            "ü",
            "a b",
            "%2F",
            "a%2Fb",
            "x" * 400,
            "x" * 401,
            "__HIVE_DEFAULT_PARTITION__",
            "\n",
            "null",
        ]
    ),
    "dates": pl.Series([date(2024, 1, 1), None, date(2024, 1, 2), date(1, 1, 1)]),
    "times": pl.Series([time(1, 2, 3, 4), time(1, 2, 3, 5), None]),
    "durations": pl.Series([timedelta(days=1), timedelta(microseconds=1), None, timedelta(days=-1)]),
    "datetimes": pl.Series([datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 0, 0, 1), None]),
    "nanoseconds": pl.Series([1, 2, None], dtype=pl.Datetime("ns")),
    # Two moments of one wall time, when the clocks went back.
    "zoned datetimes": (pl.Series([1414274400, 1414278000, None]) * 1_000_000)
    .cast(pl.Datetime("us", "UTC"))
    .dt.convert_time_zone("Europe/Moscow"),
    "decimals": pl.Series([Decimal("1.10"), Decimal("-1.10"), None], dtype=pl.Decimal(10, 2)),
    "categoricals": pl.Series(["b", "a/b", None, "b"], dtype=pl.Categorical),
    "enums": pl.Series(["b", "a", None, "b"], dtype=pl.Enum(["b", "a", "unused"])),
    "nulls": pl.Series([None, None], dtype=pl.Null),
}


@pytest.mark.smoke
@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
@pytest.mark.parametrize("case", list(KEYS))
def test_keys_of_every_type(engine: Engine, results: Path, tmp_path: Path, case: str, memory: int) -> None:
    column = KEYS[case]
    data = pl.DataFrame({"k": column, "row": range(len(column))})
    source = data.lazy()
    if case != "wide integers":
        data.write_ipc(tmp_path / "data.arrow")
        source = pl.scan_ipc(tmp_path / "data.arrow")
    job = run(engine, results, source.select("row"), "k", memory=memory)
    assert (job.split["splitState"]["pieces"] is not None) == (memory == SMALL_MEMORY)
    groups = data.group_by("k", maintain_order=True).agg(pl.col("row"))
    assert len(job.keys) == groups.height
    assert len({key.path for key in job.keys}) == groups.height
    found = sorted(key.frame.get_column("row").to_list() for key in job.keys)
    assert found == sorted(groups.get_column("row").to_list())
    nulls = [key for key in job.keys if key.values == {"k": None}]
    assert [key.path for key in nulls] == (["k=__HIVE_DEFAULT_PARTITION__"] if column.null_count() else [])


@pytest.mark.parametrize("case", list(KEYS))
def test_a_key_equals_a_filter_on_its_value(engine: Engine, results: Path, case: str) -> None:
    column = KEYS[case]
    data = pl.DataFrame({"k": column, "row": range(len(column))})
    job = run(engine, results, data.lazy(), "k")
    expected = []
    values = column.unique(maintain_order=True)
    for position in range(len(values)):
        value = values.slice(position, 1)
        expected.append(
            data.filter(pl.col("k").is_null() if value.null_count() else pl.col("k") == pl.lit(value).first())
        )
    found = {tuple(key.frame.get_column("row")): key.frame for key in job.keys}
    assert len(found) == len(expected)
    for frame in expected:
        assert_frame_equal(found[tuple(frame.get_column("row"))], frame)


# Polars takes most of these for patterns, where a column may be named.
PATTERNS = ["^a$", "^.*$", "*", "^v.*$", "^"]


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
@pytest.mark.parametrize("name", PATTERNS)
def test_columns_whose_names_read_like_patterns_are_columns(
    engine: Engine, results: Path, name: str, memory: int, is_held: bool
) -> None:
    data = pl.DataFrame({"v": [1, 2, 3], **{other: [4, 5, 6] for other in PATTERNS}})
    data = data.with_columns(pl.Series(name, [7, None, 7]))
    # Too little memory for the key run alone: its source is filtered.
    job = run(engine, results, data.lazy(), name, memory=memory, memoryBytes=memory if is_held else SMALL_MEMORY)
    found = {key.values[name]: key.frame.to_dicts() for key in job.keys}
    rows = data.to_dicts()
    assert found == {None: [rows[1]], "7": [rows[0], rows[2]]}


@pytest.mark.parametrize("name", PATTERNS)
def test_so_are_those_of_a_source_that_is_read_whole(engine: Engine, results: Path, name: str) -> None:
    data = pl.DataFrame({"k": ["x", "y", "x"], name: [1, 2, 3]})
    rates = pl.DataFrame({other: [number] for number, other in enumerate(PATTERNS) if other != name})
    job = run(engine, results, data.lazy().join(rates.lazy(), how="cross"), "k")
    found = {key.values["k"]: key.frame.to_dicts() for key in job.keys}
    first, second, third = [{**row, **rates.to_dicts()[0]} for row in data.to_dicts()]
    assert found == {"x": [first, third], "y": [second]}


@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
def test_several_keys_whose_names_read_like_patterns(engine: Engine, results: Path, memory: int) -> None:
    names = ["^.*$", "*"]
    data = pl.DataFrame({"v": [1, 2, 3], "^.*$": ["x", "y", "x"], "*": [4, 5, 5]})
    job = run(engine, results, data.lazy(), *names, memory=memory)
    assert [(*key.values.values(), *key.frame.rows()) for key in job.keys] == [
        ("x", "4", (1, "x", 4)),
        ("x", "5", (3, "x", 5)),
        ("y", "5", (2, "y", 5)),
    ]


def test_keys_come_sorted_and_the_same_each_time(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"k": [str(number) for number in range(500)][::-1], "v": 1})
    first, again = (split(engine, results, data, "k").one("keys")["keys"] for _ in range(2))
    assert first == again
    assert [key["values"]["k"] for key in first] == sorted(str(number) for number in range(500))


def test_texts_of_values_are_what_people_expect(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame(
        {"d": [date(2024, 5, 6)], "t": [datetime(2024, 5, 6, 7, 8, 9)], "f": [0.5], "b": [True], "c": [Decimal("1.10")]}
    )
    [key] = split(engine, results, data, "d", "t", "f", "b", "c").one("keys")["keys"]
    assert key["values"] == {"d": "2024-05-06", "t": "2024-05-06T07:08:09", "f": "0.5", "b": "true", "c": "1.10"}
    assert key["path"] == "d=2024-05-06/t=2024-05-06T07%3A08%3A09/f=0.5/b=true/c=1.10"


def test_too_many_keys_are_refused_and_the_limit_is_named(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"k": range(2_000_000)})
    error = split(engine, results, data, "k", max_keys=50).one("failed")["error"]
    assert error["code"] == "limit_exceeded"
    assert "50" in error["message"] and "max_keys" in error["message"] and "max_keys=500" in error["hint"]
    assert len(split(engine, results, pl.LazyFrame({"k": range(50)}), "k", max_keys=50).one("keys")["keys"]) == 50


def test_reading_stops_soon_after_the_limit(tmp_path: Path) -> None:
    from frazil_engine.sampling import read_distinct

    pl.DataFrame({"k": range(3_000_000)}).write_parquet(tmp_path / "data.parquet", row_group_size=50_000)
    rows = read_distinct(pl.scan_parquet(tmp_path / "data.parquet"), 10)
    assert rows.is_over and rows.rows_seen <= 200_000


@pytest.mark.parametrize(
    "expr",
    [
        pl.col("d").dt.year().alias("year"),
        pl.col("d").dt.truncate("1w").alias("week"),
        pl.col("d").dt.strftime("%Y-%m").alias("month"),
        (pl.col("v") % 3).alias("mod"),
        pl.when(pl.col("v") > 3).then(pl.lit("large")).alias("size"),
        pl.concat_str(pl.col("v") % 2, pl.col("d").dt.month(), separator="/").alias("both"),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory", [LARGE_MEMORY, SMALL_MEMORY])
def test_keys_can_be_expressions_over_source_columns(engine: Engine, results: Path, expr: pl.Expr, memory: int) -> None:
    data = pl.DataFrame(
        {"d": [date(2023, 12, 25) + timedelta(days=9 * number) for number in range(12)], "v": range(12)}
    )
    job = run(engine, results, data.lazy().select(pl.col("v") * 2), expr, memory=memory)
    name = expr.meta.output_name()
    expected = data.with_columns(expr).group_by(name).agg(pl.col("v") * 2)
    assert sorted(key.frame.get_column("v").to_list() for key in job.keys) == sorted(expected.get_column("v").to_list())
    assert {str(key.values[name]) for key in job.keys} == {str(value) for value in expected.get_column(name)}


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        (pl.col("v").max().alias("k"), "row by row"),
        (pl.col("v").shift().alias("k"), "row by row"),
        (pl.col("v").rank().alias("k"), "row by row"),
        ((pl.col("v") - pl.col("v").mean()).alias("k"), "row by row"),
        (pl.lit(1).alias("k"), "columns of the data"),
        (pl.col("v").implode().alias("k"), "Cast"),
        (pl.col("v").cast(pl.String).cast(pl.Binary).alias("k"), "Cast"),
    ],
    ids=str,
)
def test_expressions_that_make_no_key_are_refused(engine: Engine, results: Path, expr: pl.Expr, words: str) -> None:
    error = split(engine, results, pl.LazyFrame({"v": [1, 2]}), expr).one("failed")["error"]
    assert error["code"] == "invalid_key" and words in error["hint"]


@pytest.mark.smoke
def test_a_column_made_inside_the_query_is_refused_with_the_expression_to_write(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"d": [date(2024, 1, 1)], "v": [1]})
    made = data.with_columns(pl.col("d").dt.year().alias("year")).group_by("year").agg(total=pl.col("v").sum())
    error = split(engine, results, made, "year").one("failed")["error"]
    assert error["code"] == "invalid_key"
    assert '"year"' in error["message"] and "d, v" in error["message"]
    assert 'partition_by(pl.col("d").dt.year().alias("year"))' in error["hint"]
    error = split(engine, results, data.select(twice=pl.col("v") * 2 + 1), "twice").one("failed")["error"]
    expression = error["hint"].partition("partition_by(")[2].removesuffix(").")
    assert data.select(eval(expression, {"pl": pl})).collect().to_dicts() == [{"twice": 3}]


def test_a_renamed_column_is_refused_with_what_to_write(engine: Engine, results: Path) -> None:
    data = pl.LazyFrame({"d": [1]}).rename({"d": "day"})
    error = split(engine, results, data, "day").one("failed")["error"]
    assert error["code"] == "invalid_key" and 'alias("day")' in error["hint"]


def test_a_column_that_is_nowhere_is_refused(engine: Engine, results: Path) -> None:
    error = split(engine, results, pl.LazyFrame({"d": [1]}), "nowhere").one("failed")["error"]
    assert error["code"] == "invalid_key" and '"nowhere"' in error["message"]


def test_keys_of_no_rows_are_none(engine: Engine, results: Path) -> None:
    assert split(engine, results, pl.LazyFrame(schema={"k": pl.Int64}), "k").one("keys")["keys"] == []


def test_a_key_expression_with_python_in_it_is_announced(engine: Engine, results: Path) -> None:
    key = pl.col("v").map_elements(lambda value: value % 2, return_dtype=pl.Int64).alias("odd")
    talk = split(engine, results, pl.LazyFrame({"v": [1, 2, 3]}), key)
    assert talk.one("opened")["python"] is True
    assert len(talk.one("keys")["keys"]) == 2
