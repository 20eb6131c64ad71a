"""What user code changes in the process is undone before the next run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import polars as pl
import pytest
from driver import Engine, run_message, serialize

# The engine has no such module: these functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def look(frame: pl.DataFrame) -> pl.DataFrame:
    """Tells what later user code finds."""
    import json
    import os
    import signal
    import sys
    import warnings

    found = {
        "cwd": os.getcwd(),
        "home": os.path.isdir(os.getcwd()),
        "environment": dict(os.environ),
        "stdout": type(sys.stdout).__name__,
        "filters": repr(warnings.filters),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "sum": pl.DataFrame({"a": [1, 2]}).select(pl.col("a").sum()).item(),
    }
    return pl.DataFrame({"found": [json.dumps(found)]})


def change_directory() -> None:
    os.chdir("/")


def remove_directory() -> None:
    import shutil

    shutil.rmtree(os.environ.get("TMPDIR", os.getcwd()))


def change_environment() -> None:
    os.environ["NEW"] = "1"
    os.environ["GIVEN"] = "2"
    del os.environ["PATH"]


def replace_streams() -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def filter_warnings() -> None:
    import warnings

    warnings.simplefilter("error")
    # Left without its end, so that the list is another one.
    warnings.catch_warnings().__enter__()


def set_an_alarm() -> None:
    import signal

    signal.alarm(1)


def patch_polars() -> None:
    import polars

    def broken(*_arguments: Any, **_named: Any) -> Any:
        raise RuntimeError("patched")

    for place in (polars.LazyFrame, polars.DataFrame, polars.Expr):
        for name in ("sink_ipc", "collect", "select", "sum", "collect_schema", "item", "write_ipc", "map_batches"):
            if hasattr(place, name):
                setattr(place, name, broken)
    polars.col = polars.scan_ipc = polars.DataFrame.__len__ = broken
    del polars.len


CHANGES = [
    change_directory,
    remove_directory,
    change_environment,
    replace_streams,
    filter_warnings,
    set_an_alarm,
    patch_polars,
]


@pytest.mark.smoke
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_next_run_finds_the_process_as_it_was(tmp_path: Path, results: Path, change: Callable[[], None]) -> None:
    home = tmp_path / "home"
    home.mkdir()

    def do(frame: pl.DataFrame) -> pl.DataFrame:
        change()
        return frame

    def found(engine: Engine, attempt: int) -> Any:
        message = run_message(results, tasks=[{**run_message(results)["tasks"][0], "attempt": attempt}])
        talk = engine.converse(
            message, serialize(pl.LazyFrame({"a": [1]}).map_batches(look, schema={"found": pl.String}))
        )
        return json.loads(pl.read_ipc_stream(talk.head).item())

    with Engine(env={"GIVEN": "1", "TMPDIR": str(home)}, cwd=str(home)) as engine:
        before = found(engine, 1)
        assert before["cwd"] == str(home) and before["environment"]["GIVEN"] == "1"
        message = run_message(results, tasks=[{**run_message(results)["tasks"][0], "attempt": 2}])
        answers = engine.converse(message, serialize(pl.LazyFrame({"a": [1]}).map_batches(do))).messages
        # Who breaks Polars may fail by that himself.
        assert [answer["type"] for answer, _ in answers][-2] in ("done", "failed")
        assert found(engine, 3) == before


def draw(frame: pl.DataFrame) -> pl.DataFrame:
    """One number of each generator that a seed is for."""
    import random

    import numpy

    shuffled = pl.int_range(10**6, eager=True).shuffle()
    return pl.DataFrame({"python": [random.random()], "numpy": [numpy.random.random()], "polars": [shuffled[0]]})


def test_a_run_without_a_seed_draws_nothing_that_an_earlier_seed_gives(engine: Engine, results: Path) -> None:
    schema = {"python": pl.Float64, "numpy": pl.Float64, "polars": pl.Int64}
    query = serialize(pl.LazyFrame({"a": [1]}).map_batches(draw, schema=schema))

    def drawn(seed: int | None) -> pl.DataFrame:
        return pl.read_ipc_stream(engine.converse(run_message(results, seed=seed), query).head)

    # Numpy is there from then on.
    drawn(None)
    found = [drawn(seed) for seed in (7, None, None, 7, None)]
    assert found[0].row(0) == found[3].row(0)
    for name in ("python", "numpy", "polars"):
        values = [one.get_column(name).item() for one in found]
        assert len(set(values)) == 4, (name, values)
