"""Opens plan bytes safely: everything that could make Polars recurse without end, crash or run Python is found before
Polars sees the bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from frazil_engine import wire
from frazil_engine.arenas import (
    ARENA_KEYS,
    FRAME_FIELDS,
    HASH_START,
    HEADER_BYTES,
    MAGIC,
    Arena,
    Reference,
    Slot,
    is_reference,
    read_arena,
    read_reference,
    refuse,
    walk,
)
from frazil_engine.errors import Failure, secret_values
from frazil_engine.limits import PLAN_BYTES_MAX, PLAN_DEPTH_MAX
from frazil_engine.pickles import NO_VERSION, adopted_micro, pickle_version, rewrite_micro

# Fields that hold references, alone or in lists. A reference written as a bare array would pass by the search for
# cycles.
REFERENCE_FIELDS = FRAME_FIELDS | {
    "input", "input_left", "input_right", "inputs", "idxs", "contexts", "relations", "dsl",
}  # fmt: skip
# Where a node stands: at the top of an entry, or inline in a list of inputs.
NODE_PLACES = {"", "inputs", "contexts"}


@dataclass(frozen=True)
class CheckedPlan:
    """A plan that is safe to hand to Polars."""

    arena: Arena
    has_python: bool
    # Values of storage options inside the plan, which must not appear in messages.
    secrets: frozenset[str]


@functools.cache
def own_schema_hash() -> str:
    """The hash in the header of every plan that this Polars release writes."""
    return pl.LazyFrame().serialize()[HASH_START:HEADER_BYTES].decode("ascii")


def check_plan(data: bytes) -> CheckedPlan:
    """Checks plan bytes without handing them to Polars. Raises Failure (invalid_plan, unsupported_polars,
    unsupported_python, too_large).
    """
    if len(data) > PLAN_BYTES_MAX:
        raise Failure(
            "too_large",
            f"The plan has {len(data):,} bytes, over the limit of {PLAN_BYTES_MAX:,}.",
            hint="Scan the data from storage instead of carrying it in the plan.",
        )
    check_header(data)
    arena = read_arena(data)
    findings = Findings()
    children = [check_node(arena, slot, findings) for slot in arena.nodes]
    check_slot(arena.nodes, arena.root, "node")
    check_depth(children, arena.root[0])
    arena = adopt_python_micro(arena, findings)
    return CheckedPlan(arena, findings.has_python, frozenset(findings.secrets))


def check_expression(data: bytes) -> tuple[bytes, bool]:
    """Checks the bytes of one expression. Gives them as this Python reads them, and whether Python is in them. Raises
    Failure (invalid_plan).
    """
    findings = Findings()
    inspect_all(decode_checked(data), findings)
    if findings.cloudpickles:
        data = rewrite_micro(data, adopted_micro(findings.cloudpickles.values()))
    return data, findings.has_python


def check_header(data: bytes) -> None:
    if len(data) <= HEADER_BYTES or not data.startswith(MAGIC):
        raise refuse("the header is missing")
    if data[HASH_START:HEADER_BYTES].decode("latin1") != own_schema_hash():
        raise Failure(
            "unsupported_polars",
            f"The plan was written by another Polars release than {pl.__version__}, which this engine runs.",
            hint="Say the Polars release that wrote the plan when submitting it.",
        )


def check_slot(slots: list[Slot], reference: Reference, what: str) -> None:
    index, version = reference
    if not 0 <= index < len(slots) or slots[index].version != version or version % 2 == 0:
        raise refuse(f"it refers to a {what} that is not there ({index}, {version})")


@dataclass
class Findings:
    """What a walk through the nodes finds besides references."""

    has_python: bool = False
    # Python (minor, micro) of the cloudpickles inside, and in which nodes they are.
    cloudpickles: dict[int, tuple[int, int]] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    index: int = 0


def check_node(arena: Arena, slot: Slot, findings: Findings) -> list[int]:
    """Checks one node's references and notes what is inside it. Gives the nodes it refers to."""
    children = []
    for name, reference in inspect_all(decode_checked(slot.raw), findings):
        if name in FRAME_FIELDS:
            check_slot(arena.frames, reference, "frame")
        else:
            check_slot(arena.nodes, reference, "node")
            children.append(reference[0])
    findings.index += 1
    return children


def decode_checked(raw: bytes) -> Any:
    try:
        return wire.decode(raw)
    except wire.WireFault as error:
        raise refuse(str(error)) from None


def inspect_all(value: Any, findings: Findings) -> list[tuple[str, Reference]]:
    """Inspects everything inside a value. Gives the references in it, with the names of their fields."""
    references = []
    for name, inner in walk(value):
        if is_reference(inner):
            references.append((name, read_reference(inner)))
        else:
            inspect_value(name, inner, findings)
    return references


def inspect_value(name: str, value: Any, findings: Findings) -> None:
    """Refuses what must not be in a node, and notes Python and secrets."""
    if isinstance(value, dict):
        if not ARENA_KEYS - value.keys() or isinstance(value.get("SubPlan"), list):
            raise refuse("a plan stands inside an expression")
        if name in NODE_PLACES and value.keys() & {"Sink", "SinkMultiple"}:
            raise refuse("it ends in a sink of its own; send the query itself, and the job writes its result")
        if name == "config" and len(value) == 1:
            findings.secrets |= find_option_values(next(iter(value.values())))
        findings.has_python = findings.has_python or names_python(value)
    elif name in REFERENCE_FIELDS and isinstance(value, list) and value and all(type(item) is int for item in value):
        raise refuse("a reference is not {idx, version}")
    if isinstance(value, (bytes, list)):
        found = pickle_version(value)
        if found is not None:
            findings.has_python = True
            if found != NO_VERSION:
                findings.cloudpickles[findings.index] = found


def names_python(value: dict[Any, Any]) -> bool:
    """Whether a field of this map can carry a pickle. A column of such a name makes it true as well, which does no
    harm.
    """
    for key, item in value.items():
        text = key.lower() if isinstance(key, str) else ""
        if "python" in text or "anonymous" in text or "callback" in text or text == "pipewithschema":
            return True
        if text in ("credential_provider", "apply") and item is not None:
            return True
    return False


def find_option_values(options: Any) -> set[str]:
    """Values of `[[name, value], ...]` that are not plain settings."""
    if not isinstance(options, list):
        return set()
    pairs = [pair for pair in options if isinstance(pair, list) and len(pair) == 2]
    return secret_values({str(name): value for name, value in pairs if isinstance(value, str)})


def adopt_python_micro(arena: Arena, findings: Findings) -> Arena:
    """Polars refuses a cloudpickle of another micro version of Python, though only the minor matters to it: write our
    own into the headers.
    """
    own = adopted_micro(findings.cloudpickles.values())
    nodes = list(arena.nodes)
    for index, (_, micro) in findings.cloudpickles.items():
        if micro != own:
            nodes[index] = Slot(nodes[index].version, rewrite_micro(nodes[index].raw, own))
    return Arena(arena.header, arena.root, arena.frames, nodes)


def check_depth(children: list[list[int]], root: int) -> None:
    """No chain of references from the root may come back to itself or be longer than PLAN_DEPTH_MAX."""
    on_path, done = 1, 2
    state = [0] * len(children)
    # (node, children that are left to go to)
    path: list[tuple[int, Iterator[int]]] = [(root, iter(children[root]))]
    state[root] = on_path
    while path:
        node, rest = path[-1]
        child = next(rest, None)
        if child is None:
            state[node] = done
            path.pop()
        elif state[child] == on_path:
            raise refuse("a node refers back to itself")
        elif state[child] != done:
            if len(path) >= PLAN_DEPTH_MAX:
                raise refuse(f"its nodes are nested deeper than {PLAN_DEPTH_MAX:,}")
            state[child] = on_path
            path.append((child, iter(children[child])))
