"""Queries on their way out: plan bytes, keys, and the versions that wrote them."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import polars as pl

from frazil._wire import PLAN_BYTES_MAX
from frazil.errors import LimitExceeded, UnsupportedArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# Polars embeds functions behind a magic of its own, or as a bare pickle (protocol 4 and up begins PROTO, version,
# FRAME), either as bytes or as a msgpack list of numbers, in which bytes of 0x80 and above are preceded by 0xcc. Data
# that looks like one is taken for one: that only pins the Python minor.
_PICKLED = re.compile(rb"PLPYFN|PLPYUDF|cloudpickle|\x80[\x04\x05]\x95|\xcc\x80[\x04\x05]\xcc\x95")


def serialise(lf: pl.LazyFrame) -> bytes:
    """Polars' own plan bytes.

    `LazyFrame.serialize` and not `prepare_cloud_plan`: the latter wants a sink at the root, and in old releases refuses
    local scans and user functions.
    """
    if not isinstance(lf, pl.LazyFrame):
        raise UnsupportedArgument(f"expected a LazyFrame, got {type(lf).__name__}")
    try:
        data = _by_value(lf.serialize)
    except pl.exceptions.ComputeError as error:
        text = str(error)
        if "Object" in text:
            raise UnsupportedArgument(
                "the query holds a column of type Object, which can't travel to another machine",
                hint="cast the column to a Polars type before .remote()",
            ) from error
        if "Buffers" in text:
            raise UnsupportedArgument(
                "the query scans bytes or an open file, which can't travel to another machine",
                hint="scan a path or URL, or read the data first and use the DataFrame's .lazy()",
            ) from error
        raise UnsupportedArgument(f"the query could not be serialised: {text}") from error
    if len(data) > PLAN_BYTES_MAX:
        raise LimitExceeded(
            f"the serialised query has {len(data) / 2**20:.0f} MiB, and may have {PLAN_BYTES_MAX // 2**20} MiB",
            hint="it carries an in-memory frame: write that to storage and scan it from there",
        )
    return data


_pickle_lock = threading.Lock()


def _by_value(serialise: Callable[[], bytes]) -> bytes:
    """The bytes, with functions of the user's script or notebook inside.

    Polars pickles most of them by value, but those of `LazyFrame.map_batches`, `name.map` and some others by their name
    in `__main__`, which is another module on the engine. It asks `pickle.dumps` first, so for those a second go answers
    with what cloudpickle makes; to this thread only. So do functions whose file cloudpickle did not name.
    """
    data = serialise()
    if b"__main__" not in data and _NAMELESS not in data:
        return data
    import pickle

    import cloudpickle

    caller = threading.get_ident()
    with _pickle_lock, _named_files(cloudpickle.Pickler):
        original = pickle.dumps

        def dumps(value: Any, *args: Any, **kwargs: Any) -> bytes:
            return cloudpickle.dumps(value) if threading.get_ident() == caller else original(value, *args, **kwargs)

        pickle.dumps = dumps  # type: ignore[assignment]
        try:
            return serialise()
        finally:
            pickle.dumps = original


# What cloudpickle writes from 3.1.3 on in place of a function's file. A traceback then has none of the user's lines.
_NAMELESS = b"<dynamic-code>"


@contextlib.contextmanager
def _named_files(pickler: Any) -> Iterator[None]:
    table = pickler._dispatch_table
    original = table[types.CodeType]

    def reduce(code: types.CodeType) -> tuple[Any, tuple[Any, ...]]:
        make, arguments = original(code)
        nameless = _NAMELESS.decode()
        return make, tuple(code.co_filename if argument == nameless else argument for argument in arguments)

    table[types.CodeType] = reduce
    try:
        yield
    finally:
        table[types.CodeType] = original


def _unlock() -> None:
    """In the child of a fork: another thread may have held the lock."""
    global _pickle_lock
    _pickle_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def has_python(plan: bytes) -> bool:
    """Whether the bytes may hold pickled Python. Errs on the side of yes."""
    return _PICKLED.search(plan) is not None


def plan_payload(plan: bytes) -> dict[str, Any]:
    return {"kind": "dsl", "data": base64.b64encode(plan).decode("ascii")}


def client_versions(*, carries_python: bool) -> dict[str, Any]:
    """Versions that wrote the plan, and the directory that its relative paths mean."""
    try:
        cwd: str | None = os.getcwd()
    except OSError:  # The directory was removed.
        cwd = None
    return {
        "polars": pl.__version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "hasPython": carries_python,
        "cwd": cwd,
    }


def partition_payload(
    by: Iterable[str | pl.Expr], named: dict[str, pl.Expr], max_keys: int | None
) -> tuple[dict[str, Any], bool]:
    """`partitionBy` of a spec, and whether an expression in it carries Python."""
    exprs = [*by, *(expr.alias(name) for name, expr in named.items())]
    if not exprs:
        raise UnsupportedArgument("partition_by needs at least one column name or expression")
    keys, carries_python = [], False
    for key in exprs:
        if isinstance(key, str):
            keys.append({"name": key})
            continue
        if not isinstance(key, pl.Expr):
            raise UnsupportedArgument(f"partition_by takes column names and expressions, not {type(key).__name__}")
        name = _output_name(key)
        if key.meta == pl.col(name):
            keys.append({"name": name})
            continue
        data = _by_value(key.meta.serialize)
        carries_python = carries_python or has_python(data)
        keys.append({"name": name, "expr": base64.b64encode(data).decode("ascii")})
    names = [key["name"] for key in keys]
    if len(set(names)) < len(names):
        raise UnsupportedArgument(f"partition_by: two keys have the same name: {names}", hint="give them .alias(...)")
    payload: dict[str, Any] = {"keys": keys}
    if max_keys is not None:
        payload["maxKeys"] = max_keys
    return payload, carries_python


def flat_keys(by: str | pl.Expr | Sequence[str | pl.Expr] | None) -> list[str | pl.Expr]:
    if by is None:
        return []
    return list(by) if isinstance(by, (list, tuple)) else [by]  # type: ignore[list-item]


def _output_name(key: pl.Expr) -> str:
    try:
        return key.meta.output_name()
    except pl.exceptions.PolarsError as error:
        raise UnsupportedArgument(
            f"a partition_by expression must make one column with a name: {error}", hint='end it with .alias("name")'
        ) from error
