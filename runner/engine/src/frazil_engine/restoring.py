"""Puts back what user code has changed in the process, so that the next run finds it as the first one did.

Engines that have run Python serve one user only; this is about a user's queries among each other. What a library keeps
for itself (its threads, modules, caches) stays.
"""

from __future__ import annotations

import contextlib
import decimal
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import polars as pl

# What queries are made of and written with, here and by other users' functions.
PATCHED_PLACES: tuple[Any, ...] = (pl, pl.LazyFrame, pl.DataFrame, pl.Series, pl.Expr, pl.Config)
ENGINE_AFFINITY = "POLARS_ENGINE_AFFINITY"
CREDENTIALS_MODULE = "polars.io.cloud.credential_provider._builder"
OWN_UMASK = 0o077
DECIMAL_SETTINGS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "flags", "traps")


@dataclass(frozen=True)
class PolarsSettings:
    """What `pl.Config` has set, to be compared and to be loaded."""

    state: dict[str, Any]
    saved: str


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
    polars_settings: PolarsSettings
    path: list[str]
    umask: int
    recursion_limit: int
    socket_timeout: float | None
    decimal_context: decimal.Context
    decimal_default: decimal.Context


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
        polars_settings=PolarsSettings(pl.Config.state(), pl.Config.save()),
        path=list(sys.path),
        umask=read_umask(),
        recursion_limit=sys.getrecursionlimit(),
        socket_timeout=read_socket_timeout(),
        decimal_context=decimal.getcontext().copy(),
        decimal_default=decimal.DefaultContext.copy(),
    )


def read_umask() -> int:
    """It can be asked for only by setting it."""
    umask = os.umask(OWN_UMASK)
    os.umask(umask)
    return umask


def read_socket_timeout() -> float | None:
    # Not imported for this: who sets it has imported it.
    socket = sys.modules.get("socket")
    return None if socket is None else socket.getdefaulttimeout()


def restore(before: Surroundings) -> None:
    """Puts everything back. What was added stays, where that does not change what was there."""
    restore_polars(before)
    restore_python(before)
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


def restore_polars(before: Surroundings) -> None:
    for place, names in zip(PATCHED_PLACES, before.polars, strict=True):
        now = vars(place)
        for name in [name for name, value in names.items() if now.get(name) is not value]:
            # Some names of a class are the interpreter's own.
            with contextlib.suppress(AttributeError, TypeError):
                setattr(place, name, names[name])
    settings = before.polars_settings
    # Polars reads its variables of the environment once: to put the environment back does not reach it.
    if pl.Config.state() != settings.state:
        pl.Config.restore_defaults()
        pl.Config.load(settings.saved)
    # Objects are in no state. The variable may name an engine that Polars does not know.
    with contextlib.suppress(ValueError):
        pl.Config.set_engine_affinity(settings.state.get(ENGINE_AFFINITY))
    credentials = sys.modules.get(CREDENTIALS_MODULE)
    if credentials is not None:
        vars(credentials)["DEFAULT_CREDENTIAL_PROVIDER"] = "auto"


def restore_python(before: Surroundings) -> None:
    """Settings of the interpreter and of its library."""
    # What a library adds when it is imported goes, too, like its filters of warnings.
    sys.path = list(before.path)
    os.umask(before.umask)
    sys.setrecursionlimit(before.recursion_limit)
    socket = sys.modules.get("socket")
    if socket is not None:
        socket.setdefaulttimeout(before.socket_timeout)
    decimal.setcontext(before.decimal_context.copy())
    for name in DECIMAL_SETTINGS:
        setattr(decimal.DefaultContext, name, getattr(before.decimal_default, name))


def enter(home: str) -> None:
    """Makes the engine's own directory the current one; makes it anew where user code has removed it."""
    try:
        os.chdir(home)
    except FileNotFoundError:
        os.makedirs(home, mode=0o700, exist_ok=True)
        os.chdir(home)
