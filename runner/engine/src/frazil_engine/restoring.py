"""Puts back what user code has changed in the process, so that the next run finds it as the first one did.

Engines that have run Python serve one user only; this is about a user's queries among each other. What a library keeps
for itself (its threads, modules, caches) stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import polars as pl

# What queries are made of and written with, here and by other users' functions.
PATCHED_PLACES: tuple[Any, ...] = (pl, pl.LazyFrame, pl.DataFrame, pl.Series, pl.Expr)


@dataclass(frozen=True)
class Surroundings:
    """The process as it was before any user code ran in it."""

    home: str
    environment: dict[str, str]
    stdout: Any
    stderr: Any
    showwarning: Any
    warning_filters: list[Any]
    polars: list[dict[str, Any]]


def look_around(home: str) -> Surroundings:
    """To be called before the first run."""
    return Surroundings(
        home=home,
        environment=dict(os.environ),
        stdout=sys.stdout,
        stderr=sys.stderr,
        showwarning=warnings.showwarning,
        warning_filters=list(warnings.filters),
        polars=[dict(vars(place)) for place in PATCHED_PLACES],
    )


def restore(before: Surroundings) -> None:
    """Puts everything back. What was added stays, where that does not change what was there."""
    enter(before.home)
    if os.environ != before.environment:
        for name in set(os.environ) - set(before.environment):
            del os.environ[name]
        os.environ.update(before.environment)
    sys.stdout, sys.stderr = before.stdout, before.stderr
    warnings.showwarning = before.showwarning
    # What a library sets when it is imported goes, too. It would be worse if a filter of the user's stayed that turns
    # warnings into errors.
    if warnings.filters != before.warning_filters:
        warnings.filters = []
        # Python is told by this that its notes of warnings that were shown once are void.
        warnings.resetwarnings()
        warnings.filters = list(before.warning_filters)
    # An alarm would go off in the next run.
    signal.setitimer(signal.ITIMER_REAL, 0)
    for place, names in zip(PATCHED_PLACES, before.polars, strict=True):
        now = vars(place)
        for name in [name for name, value in names.items() if now.get(name) is not value]:
            # Some names of a class are the interpreter's own.
            with contextlib.suppress(AttributeError, TypeError):
                setattr(place, name, names[name])


def enter(home: str) -> None:
    """Makes the engine's own directory the current one; makes it anew where user code has removed it."""
    try:
        os.chdir(home)
    except FileNotFoundError:
        os.makedirs(home, mode=0o700, exist_ok=True)
        os.chdir(home)
