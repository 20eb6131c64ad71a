"""Pickles inside plans: found by their header, and made readable for this Python."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from frazil_engine import wire
from frazil_engine.arenas import walk
from frazil_engine.errors import Failure

# Stands before the metadata of a function in an expression, which the pickle follows.
PICKLED_UDF_MAGIC = b"PLPYFN"
NO_VERSION = (-1, -1)
# What has no more bytes than this is no header with a pickle behind it.
PICKLE_BYTES_MIN = 5


def pickle_version(value: bytes | list[Any]) -> tuple[int, int] | None:
    """Python's (minor, micro) in the header of a cloudpickle; NO_VERSION for a plain pickle; None for anything else."""
    start = pickle_start(value)
    if start is None:
        return None
    return (value[start + 1], value[start + 2]) if value[start] == 1 else NO_VERSION


def pickle_start(value: bytes | list[Any]) -> int | None:
    """Where a pickle's header begins: a flag for cloudpickle, Python's minor and micro version, then the pickle."""
    start = 0
    if isinstance(value, bytes) and value.startswith(PICKLED_UDF_MAGIC):
        start = wire.end_of_value(value, len(PICKLED_UDF_MAGIC))
    # A pickle of protocol 2 and above begins with 0x80 and its protocol.
    if (
        len(value) > start + PICKLE_BYTES_MIN
        and value[start] in (0, 1)
        and value[start + 3] == 0x80
        and value[start + 4] in (2, 3, 4, 5)
    ):
        return start
    return None


def adopted_micro(versions: Iterable[tuple[int, int]]) -> int:
    """Our own micro version. Raises Failure (unsupported_python) for functions of another minor."""
    own = sys.version_info[1:3]
    for minor, _ in versions:
        if minor != own[0]:
            raise Failure(
                "unsupported_python",
                f"The plan carries Python functions of Python 3.{minor}; this engine runs Python 3.{own[0]}.",
                hint=f"Submit it with Python 3.{minor} named as the client's version.",
            )
    return own[1]


def rewrite_micro(raw: bytes, micro: int) -> bytes:
    value = wire.decode(raw)
    for _, container in walk(value):
        items = (
            container.items()
            if isinstance(container, dict)
            else enumerate(container)
            if isinstance(container, list)
            else ()
        )
        for key, inner in list(items):
            start = pickle_start(inner) if isinstance(inner, (bytes, list)) else None
            if start is not None and inner[start] == 1:
                container[key] = (*inner[: start + 2], micro, *inner[start + 3 :])
                container[key] = bytes(container[key]) if isinstance(inner, bytes) else list(container[key])
    return wire.encode(value)
