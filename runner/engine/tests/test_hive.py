"""Names of partition directories."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import polars as pl
import pytest

ODD = [
    "", ".", "..", "/", "a/b", "a", "A", "%", "%2F", "a%2Fb", "=", "a=b", " ", "\\", "\n", "\0", "ü", "漢字", "\u0301",
    "__HIVE_DEFAULT_PARTITION__", "_HIVE_DEFAULT_PARTITION__", "%5F_HIVE_DEFAULT_PARTITION__", "null", "None", "NaN",
    "nan", "*", "?", "[a]", "~", "%~", "x" * 300, "x" * 299 + "y", "ü" * 200, "ü" * 199 + "/", "/" * 100, "/" * 101,
    "-", "+", "1.0", "1", "1e5", ":", "2024-01-01T00:00:00", "'", '"', "\x7f", "\U0001f600",
]  # fmt: skip


def name_of(value: str | None, column: str = "k") -> str:
    from frazil_engine.hive import partition_name

    return partition_name(column, value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("2024-01-01", "k=2024-01-01"),
        ("a/b", "k=a%2Fb"),
        ("..", "k=%2E%2E"),
        (None, "k=__HIVE_DEFAULT_PARTITION__"),
        ("", "k="),
        ("ü", "k=ü"),
        ("a b:c", "k=a%20b%3Ac"),
        ("100%", "k=100%25"),
        ("1.5", "k=1.5"),
    ],
)
def test_values_are_escaped_the_hive_way(value: str | None, name: str) -> None:
    assert name_of(value) == name


def test_two_keys_never_share_a_name() -> None:
    chance = random.Random(3)
    made = ["".join(chance.choice("aÜ/%~.=_ 2F5E") for _ in range(chance.randrange(8))) for _ in range(3_000)]
    long = ["".join(chance.choice("a/ü%") for _ in range(chance.randrange(150, 400))) for _ in range(1_000)]
    values = {*ODD, *made, *long}
    names = {value: name_of(value) for value in values}
    assert len(set(names.values())) == len(values)
    assert name_of(None) not in names.values()


def test_two_columns_never_share_a_name() -> None:
    pairs = [
        ("a", "b=c"),
        ("a=b", "c"),
        ("a%3Db", "c"),
        ("", "a=b=c"),
        ("x" * 300, "1"),
        ("x" * 300, "2"),
        ("x" * 301, "1"),
    ]
    names = [name_of(value, column) for column, value in pairs]
    assert len(set(names)) == len(pairs)


def test_every_name_is_one_directory_that_file_systems_take(tmp_path: Path) -> None:
    from frazil_engine.hive import check_partition

    for number, value in enumerate(ODD):
        name = name_of(value)
        check_partition([name])
        assert len(os.fsencode(name)) <= 255
        (tmp_path / str(number) / name).mkdir(parents=True)
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == [name]


def test_polars_reads_the_values_back(tmp_path: Path) -> None:
    values = [value for value in ODD if value not in ("", "\0") and len(value) < 50]
    for value in values:
        folder = tmp_path / name_of(value)
        folder.mkdir()
        pl.DataFrame({"v": [value]}).write_parquet(folder / "part-0.parquet")
    found = pl.scan_parquet(tmp_path, hive_schema={"k": pl.String}).collect()
    assert found.height == len(values)
    wrong = [(row["v"], row["k"]) for row in found.iter_rows(named=True) if row["v"] != row["k"]]
    # The name of null itself is escaped, and Polars looks for it after it has taken the escapes away.
    assert {expected for expected, _ in wrong} <= {"__HIVE_DEFAULT_PARTITION__"}


def test_paths_join_their_columns_in_order() -> None:
    from frazil_engine.hive import partition_path

    assert partition_path({"b": "1", "a/": None}) == "b=1/a%2F=__HIVE_DEFAULT_PARTITION__"
    paths = {partition_path({"a": first, "b": second}) for first, second in itertools.product(ODD, ODD)}
    assert len(paths) == len(ODD) ** 2
