"""Many queries as one stream of lines, holding a few plans in memory at a time."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from frazil._plans import has_python, plan_payload, serialise
from frazil._wire import FRAMES_PER_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import polars as pl

CHUNK_BYTES = 64 * 1024
"""Small lines are sent together."""


def submission_lines(
    lfs: Sequence[pl.LazyFrame], spec_of: Callable[[bool], dict[str, Any]]
) -> Callable[[], Iterator[bytes]]:
    """A function that makes the request's body, once for each time that it is sent.

    The header, which goes first, says whether any plan carries Python: so the plans are looked through once before.
    """
    spec = spec_of(any(has_python(serialise(lf)) for lf in _distinct_objects(lfs)))
    return lambda: _joined(_lines(lfs, spec))


def _distinct_objects(lfs: Sequence[pl.LazyFrame]) -> Iterator[pl.LazyFrame]:
    seen: set[int] = set()
    for lf in lfs:
        if id(lf) not in seen:
            seen.add(id(lf))
            yield lf


def _lines(lfs: Sequence[pl.LazyFrame], spec: dict[str, Any]) -> Iterator[bytes]:
    yield _line({"line": "header", "spec": spec})
    number_of_object: dict[int, int] = {}
    number_of_hash: dict[bytes, int] = {}
    numbers: list[int] = []
    for lf in lfs:
        number = number_of_object.get(id(lf))
        if number is None:
            plan = serialise(lf)
            digest = hashlib.sha256(plan).digest()
            number = number_of_hash.get(digest)
            if number is None:
                number = number_of_hash[digest] = len(number_of_hash)
                yield _line({"line": "plan", "number": number, "plan": plan_payload(plan)})
            number_of_object[id(lf)] = number
        numbers.append(number)
        if len(numbers) == FRAMES_PER_LINE:
            yield _line({"line": "frames", "plans": numbers})
            numbers = []
    if numbers:
        yield _line({"line": "frames", "plans": numbers})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
