from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from fake_clock import Clock
from fake_server import TOKEN, FakeServer

import frazil as pc
from frazil import _events, _http


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of the machine that the tests run on is ever used, and no setting of its user."""
    for name in ("FRAZIL_ADDRESS", "FRAZIL_TOKEN", "FRAZIL_CONFIG", "FRAZIL_LOGS", "FRAZIL_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRAZIL_HOME", str(tmp_path / "frazil-home"))
    monkeypatch.chdir(tmp_path)
    pc.set_compute_context(None)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    fake = FakeServer(tmp_path)
    monkeypatch.setenv("FRAZIL_ADDRESS", fake.address)
    monkeypatch.setenv("FRAZIL_TOKEN", TOKEN)
    yield fake
    fake.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which the client counts how long it tries again."""
    fake = Clock()
    for module in (_events, _http):
        monkeypatch.setattr(module, "time", fake)
    return fake


@pytest.fixture
def days() -> pl.DataFrame:
    """Twelve rows over three days, one of them null."""
    return pl.DataFrame(
        {
            "day": ["2024-01-01", "2024-01-02", None, "2024-01-01"] * 3,
            "value": list(range(12)),
            "group": ["a", "b", "c"] * 4,
        }
    )


@pytest.fixture
def source(days: pl.DataFrame, tmp_path: Path) -> str:
    path = tmp_path / "days.parquet"
    days.write_parquet(path)
    return str(path)
