"""A small part of the tests on the other Polars releases that are tested in full by matrix.py."""

from __future__ import annotations

import subprocess
import sys

import matrix
import polars as pl
import pytest

OTHERS = [release for release in matrix.RELEASES if release != pl.__version__]


@pytest.mark.parametrize("release", OTHERS)
def test_the_engine_runs_on(release: str) -> None:
    try:
        interpreter = matrix.make_environment(f"{sys.version_info.major}.{sys.version_info.minor}", release)
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        pytest.skip(f"no environment with Polars {release} could be made here: {error}")
    done = matrix.run_tests(interpreter, ["-q", "-m", "smoke", "-x"], quiet=True)
    assert done.returncode == 0, done.stdout[-4_000:]
