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
    import decimal
    import json
    import os
    import signal
    import socket
    import sys
    import warnings

    from polars import _plr, config  # pyright: ignore[reportPrivateUsage]
    from polars.io.cloud.credential_provider import _builder

    umask = os.umask(0)
    os.umask(umask)
    found = {
        "cwd": os.getcwd(),
        "home": os.path.isdir(os.getcwd()),
        "environment": dict(os.environ),
        "stdout": type(sys.stdout).__name__,
        "filters": repr(warnings.filters),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "sum": pl.DataFrame({"a": [1, 2]}).select(pl.col("a").sum()).item(),
        "umask": umask,
        "path": sys.path,
        "socket": socket.getdefaulttimeout(),
        "recursion": sys.getrecursionlimit(),
        "decimals": [str(decimal.getcontext()), str(decimal.DefaultContext)],
        "settings": pl.Config.state(),
        "shown": str(pl.DataFrame({"a": [number + 1 / 3 for number in range(20)], "b": ["1234567.5" * 10] * 20})),
        "provider": repr(_builder.DEFAULT_CREDENTIAL_PROVIDER),
        "affinity": _plr.get_engine_affinity(),
        "objects": repr(getattr(config, "_snapshot_runtime_vars", dict)()),
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


def change_the_umask() -> None:
    os.umask(0o077)


def change_the_path() -> None:
    sys.path.insert(0, "/somewhere")
    sys.path.remove(next(entry for entry in sys.path if entry.endswith("site-packages")))


def replace_the_path() -> None:
    sys.path = ["/somewhere", *sys.path]


def wait_for_sockets() -> None:
    import socket

    socket.setdefaulttimeout(1.5)


def change_the_recursion_limit() -> None:
    sys.setrecursionlimit(3_210)


def change_decimals() -> None:
    import decimal

    decimal.getcontext().prec = 5
    decimal.getcontext().traps[decimal.Inexact] = True
    decimal.DefaultContext.rounding = decimal.ROUND_UP
    decimal.DefaultContext.traps[decimal.Rounded] = True


def replace_decimals() -> None:
    import decimal

    decimal.setcontext(decimal.Context(prec=3))


def change_how_numbers_are_shown() -> None:
    pl.Config.set_float_precision(1)
    pl.Config.set_fmt_float("full")
    pl.Config.set_thousands_separator(True)
    pl.Config.set_decimal_separator(",")
    pl.Config.set_trim_decimal_zeros(True)


def prefer_an_engine() -> None:
    pl.Config.set_tbl_rows(2)
    pl.Config.set_engine_affinity("in-memory")


def prefer_an_engine_object() -> None:
    pl.Config.set_engine_affinity(pl.GPUEngine())  # pyright: ignore[reportArgumentType]


def set_a_provider() -> None:
    pl.Config.set_default_credential_provider(None)


def patch_settings() -> None:
    def broken(*_arguments: Any, **_named: Any) -> Any:
        raise RuntimeError("patched")

    pl.Config.set_tbl_rows(2)
    for name in ("state", "save", "load", "restore_defaults", "set_engine_affinity"):
        setattr(pl.Config, name, broken)


CHANGES = [
    change_directory,
    remove_directory,
    change_environment,
    replace_streams,
    filter_warnings,
    set_an_alarm,
    patch_polars,
    change_the_umask,
    change_the_path,
    replace_the_path,
    wait_for_sockets,
    change_the_recursion_limit,
    change_decimals,
    replace_decimals,
    change_how_numbers_are_shown,
    prefer_an_engine,
    prefer_an_engine_object,
    set_a_provider,
    patch_settings,
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


def draw_as_seeded_by_the_code(frame: pl.DataFrame) -> pl.DataFrame:
    import random

    import numpy

    random.seed(5)
    numpy.random.seed(5)
    pl.set_random_seed(5)
    return draw(frame)


def test_a_run_without_a_seed_draws_nothing_that_earlier_code_has_seeded(engine: Engine, results: Path) -> None:
    schema = {"python": pl.Float64, "numpy": pl.Float64, "polars": pl.Int64}
    drawn = []
    for function in (draw_as_seeded_by_the_code, draw, draw_as_seeded_by_the_code, draw):
        query = serialize(pl.LazyFrame({"a": [1]}).map_batches(function, schema=schema))
        drawn.append(pl.read_ipc_stream(engine.converse(run_message(results), query).head).row(0))
    assert drawn[0] == drawn[2]
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 3, values


@pytest.mark.parametrize("kind", ["elements", "frame"])
def test_the_first_run_of_an_engine_draws_what_its_seed_gives(results: Path, kind: str) -> None:
    import numpy

    def draw_element(_value: Any) -> float:
        import numpy

        return numpy.random.random()

    def draw_frame(frame: pl.DataFrame) -> pl.DataFrame:
        import numpy

        return pl.DataFrame({"a": [numpy.random.random() for _ in range(frame.height)]})

    frame = pl.LazyFrame({"a": [1.0, 2.0, 3.0]})
    query = (
        frame.select(pl.col("a").map_elements(draw_element, return_dtype=pl.Float64))
        if kind == "elements"
        else frame.map_batches(draw_frame)
    )
    wanted = numpy.random.RandomState(7).random_sample(3).tolist()
    with Engine() as engine:
        for _ in range(2):
            talk = engine.converse(run_message(results, seed=7), serialize(query))
            assert pl.read_ipc_stream(talk.head).to_series().to_list() == wanted


def test_a_seeded_query_without_python_needs_no_numpy(results: Path) -> None:
    def is_imported(frame: pl.DataFrame) -> pl.DataFrame:
        import sys

        return pl.DataFrame({"a": ["numpy" in sys.modules]})

    with Engine() as engine:
        engine.converse(run_message(results, seed=7), serialize(pl.LazyFrame({"a": [1]}).select("a"))).one("done")
        query = pl.LazyFrame({"a": [True]}).map_batches(is_imported)
        assert pl.read_ipc_stream(engine.converse(run_message(results), serialize(query)).head).item() is False
