"""Fixtures: an engine process that the tests share, and a place for results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# What a process does that has registered the type: before release 2 Polars has to be told.
os.environ["POLARS_UNKNOWN_EXTENSION_TYPE_BEHAVIOR"] = "load_as_extension"

from driver import Engine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Notes failed tests on themselves, for the fixtures."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def running() -> Iterator[list[Engine]]:
    """The one process that tests share, once it was started."""
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.__exit__()


@pytest.fixture
def engine(running: list[Engine], request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The shared process: no test may leave in it what troubles the next. After a failed test there is a new one."""
    if not running:
        running.append(Engine())
    yield running[0]
    if request.node.stash.get(FAILED, False):
        running.pop().__exit__()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results location of a workspace."""
    return tmp_path / "results"
