"""Makes a LazyFrame of a run's plan, and tells whether Python came with it."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from frazil_engine.arenas import Arena, read_arena
from frazil_engine.errors import Failure, is_polars_error
from frazil_engine.key_columns import KeyColumn, read_key_columns
from frazil_engine.key_columns import has_python as carries_python
from frazil_engine.limits import SQL_CHARS_MAX
from frazil_engine.plans import check_plan
from frazil_engine.protocol import Run
from frazil_engine.sql_text import name_as_polars
from frazil_engine.user_code import watch_loading


@dataclass(frozen=True)
class OpenedPlan:
    """A plan as Polars has it, and taken apart."""

    frame: pl.LazyFrame
    data: bytes
    has_python: bool
    secrets: frozenset[str]
    key_columns: list[KeyColumn]

    @functools.cached_property
    def arena(self) -> Arena:
        """What runs of keys are made from."""
        return read_arena(self.data)


def open_plan(run: Run, announce: Callable[[bool], None]) -> OpenedPlan:
    """Opens the plan of a run. `announce` is told whether Python is in it, once, and before any of that Python runs."""
    if run.plan_kind == "sql":
        checked = None
        has_python = False
    else:
        checked = check_plan(run.plan)
        has_python = checked.has_python
    announcement = Announcement(announce)
    if has_python or (run.partition_by is not None and carries_python(run.partition_by)):
        announcement.say(True)
    # Whatever way a pickle was written into the plan: it is announced before it is loaded.
    frame = open_sql(run.plan) if checked is None else deserialize(checked.data, lambda: announcement.say(True))
    with watch_loading(lambda: announcement.say(True)):
        columns = [] if run.partition_by is None else read_key_columns(run.partition_by)
    announcement.say(False)
    if checked is None:
        checked = check_plan(frame.serialize())
    return OpenedPlan(frame, checked.data, bool(announcement.has_python), checked.secrets, columns)


def ignore() -> None:
    """A plan whose Python is known already needs no word of it."""


def deserialize(data: bytes, loading: Callable[[], None] = ignore) -> pl.LazyFrame:
    """Hands checked plan bytes to Polars. `loading` is called before each pickle in them is loaded."""
    try:
        with watch_loading(loading):
            return pl.LazyFrame.deserialize(io.BytesIO(data))
    except Exception as error:
        if not is_polars_error(error):
            raise
        raise unpack_deserialize_error(error) from error


PYTHON_ERROR = re.compile(r"(ModuleNotFoundError: No module named '([^']+)'|(AttributeError|ImportError): [^\n]*)")


def unpack_deserialize_error(error: Exception) -> BaseException:
    """Polars reports an exception of a pickle inside the plan as text of its own error."""
    match = PYTHON_ERROR.search(str(error))
    if match is None:
        return Failure("invalid_plan", f"Polars {pl.__version__} can't read this plan: {error}")
    if match.group(2) is not None:
        return ModuleNotFoundError(match.group(0), name=match.group(2))
    return Failure("user_code_failed", f"A Python function in the plan could not be read: {match.group(0)}")


class Announcement:
    """Says once whether there is Python in a plan."""

    def __init__(self, announce: Callable[[bool], None]) -> None:
        self._announce = announce
        self.has_python: bool | None = None

    def say(self, has_python: bool) -> None:
        if self.has_python is None:
            self.has_python = has_python
            self._announce(has_python)


def open_sql(data: bytes) -> pl.LazyFrame:
    """SQL text over table functions such as read_parquet('...')."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Failure("invalid_plan", "The SQL text is not UTF-8.") from None
    if not text.strip() or len(text) > SQL_CHARS_MAX:
        raise Failure("invalid_plan", f"The SQL text is empty, or longer than {SQL_CHARS_MAX:,} characters.")
    return pl.SQLContext(register_globals=False).execute(name_as_polars(text), eager=False)
