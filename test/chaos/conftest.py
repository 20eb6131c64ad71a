"""Installations for the chaos tests: two that several files share, and what it takes to make others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation, Setup
from rounds import Chaos


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engine environments, which all installations share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def on_redis(cache: Path) -> Iterator[Chaos]:
    yield from run_installation(Setup(queue="redis"), cache)


@pytest.fixture(scope="session")
def on_postgres(cache: Path) -> Iterator[Chaos]:
    yield from run_installation(Setup(queue="postgres"), cache)


@pytest.fixture(scope="module")
def on_two_planes(cache: Path) -> Iterator[Chaos]:
    yield from run_installation(Setup(queue="redis", planes=2), cache)


def run_installation(setup: Setup, cache: Path) -> Iterator[Chaos]:
    """Nothing of it may be left when it has been stopped."""
    installation = Installation(setup, cache)
    chaos = Chaos(installation)
    yield chaos
    chaos.close()
    assert installation.stop() == []
