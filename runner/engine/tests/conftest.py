"""Fixtures: an engine process shared by the tests of a module, and a place for results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Engine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One process for all tests of a module: what a test leaves in it must not trouble the next."""
    with Engine() as started:
        yield started


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results location of a workspace."""
    return tmp_path / "results"
