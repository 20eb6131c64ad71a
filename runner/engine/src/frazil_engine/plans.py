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
    is_byte_list,
    is_reference,
    read_arena,
    read_reference,
    refuse,
)
from frazil_engine.errors import Failure, secret_values
from frazil_engine.limits import PLAN_BYTES_MAX, PLAN_DEPTH_MAX, PLAN_NODES_MAX
from frazil_engine.pickles import NO_VERSION, PICKLE_BYTES_MIN, adopted_micro, pickle_version, rewrite_micro

# Fields that hold references, alone or in lists. A reference written as a bare array would pass by the search for
# cycles.
REFERENCE_FIELDS = FRAME_FIELDS | {
    "input", "input_left", "input_right", "inputs", "idxs", "contexts", "relations", "dsl",
}  # fmt: skip
# Where a node stands: at the top of an entry, or inline in a list of inputs.
NODE_PLACES = {"", "inputs", "contexts"}
SINKS = {"Sink", "SinkMultiple"}
# Names that say something by what stands under them, or by where the map stands.
REMARKABLE = SINKS | ARENA_KEYS | {"SubPlan"}


@dataclass(frozen=True)
class CheckedPlan:
    """Plan bytes that are safe to hand to Polars, as this Python reads them."""

    data: bytes
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
    root, frames, nodes = open_arena(data)
    frame_versions = [version for _, version in frames]
    node_versions = [version for _, version in nodes]
    findings = Findings()
    children = []
    for index, (node, _) in enumerate(nodes):
        findings.index = index
        children.append(check_node(node, frame_versions, node_versions, findings))
    check_slot(node_versions, root, "node")
    check_depth(children, root[0])
    return CheckedPlan(adopt_python_micro(data, findings), findings.has_python, frozenset(findings.secrets))


OpenSlot = tuple[Any, int]


def open_arena(data: bytes) -> tuple[Reference, list[OpenSlot], list[OpenSlot]]:
    """The root, the frames and the nodes of plan bytes, decoded: each entry with its version. Raises Failure
    (invalid_plan).
    """
    try:
        arena = wire.decode(data[HEADER_BYTES:])
    except (wire.WireFault, TypeError) as error:
        raise refuse(str(error)) from None
    # The count is looked at in the bytes: a name that comes twice would be lost in what was decoded.
    if data[HEADER_BYTES] != ARENA_MAP or not isinstance(arena, dict) or arena.keys() != ARENA_KEYS:
        raise refuse("its arena has other parts than those expected")
    return read_reference(arena["root"]), open_slots(arena["dataframes"]), open_slots(arena["dsl_plans"])


# First byte of a MessagePack map of so many entries.
ARENA_MAP = 0x80 | len(ARENA_KEYS)
SLOT_KEYS = {"value", "version"}


def open_slots(slots: Any) -> list[OpenSlot]:
    if not isinstance(slots, list):
        raise refuse("a part of its arena is not a list")
    if len(slots) > PLAN_NODES_MAX:
        raise refuse(f"it has {len(slots):,} nodes, over the limit of {PLAN_NODES_MAX:,}")
    for slot in slots:
        if type(slot) is not dict or slot.keys() != SLOT_KEYS or not isinstance(slot["version"], int):
            raise refuse("an entry of its arena is not {value, version}")
    return [(slot["value"], slot["version"]) for slot in slots]


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


def check_slot(versions: list[int], reference: Reference, what: str) -> None:
    index, version = reference
    if not 0 <= index < len(versions) or versions[index] != version or version % 2 == 0:
        raise refuse(f"it refers to a {what} that is not there ({index}, {version})")


@dataclass
class Findings:
    """What a walk through the nodes finds besides references."""

    has_python: bool = False
    # Python (minor, micro) of the cloudpickles inside, and in which nodes they are.
    cloudpickles: dict[int, tuple[int, int]] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    index: int = 0


def check_node(node: Any, frame_versions: list[int], node_versions: list[int], findings: Findings) -> list[int]:
    """Checks one node's references and notes what is inside it. Gives the nodes it refers to."""
    children = []
    for name, reference in inspect_all(node, findings):
        if name in FRAME_FIELDS:
            check_slot(frame_versions, reference, "frame")
        else:
            check_slot(node_versions, reference, "node")
            children.append(reference[0])
    return children


def decode_checked(raw: bytes) -> Any:
    try:
        return wire.decode(raw)
    except wire.WireFault as error:
        raise refuse(str(error)) from None


CONTAINERS = (dict, list, bytes)


def inspect_all(value: Any, findings: Findings) -> list[tuple[str, Reference]]:
    """Inspects everything inside a value, as `walk` goes through it. Gives the references in it, with the names of
    their fields. One loop, because every query waits for it.
    """
    references = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, inner = stack.pop()
        kind = type(inner)
        if kind is dict:
            if len(inner) == 2 and is_reference(inner):
                references.append((name, read_reference(inner)))
                continue
            inspect_map(name, inner, findings)
            stack += [(str(key), item) for key, item in inner.items() if type(item) in CONTAINERS]
        elif kind is list:
            if name in REFERENCE_FIELDS and inner and all(type(item) is int for item in inner):
                raise refuse("a reference is not {idx, version}")
            note_pickle(inner, findings)
            if not is_byte_list(inner):
                stack += [(name, item) for item in inner if type(item) in CONTAINERS]
        elif kind is bytes:
            note_pickle(inner, findings)
    return references


def inspect_map(name: str, value: dict[Any, Any], findings: Findings) -> None:
    """Refuses what must not be in a node, and notes Python and secrets."""
    if name == "config" and len(value) == 1:
        findings.secrets |= find_option_values(next(iter(value.values())))
    names = tuple(value)
    if names in harmless_names:
        return
    if value.keys() >= ARENA_KEYS or isinstance(value.get("SubPlan"), list):
        raise refuse("a plan stands inside an expression")
    if name in NODE_PLACES and not value.keys().isdisjoint(SINKS):
        raise refuse("it ends in a sink of its own; send the query itself, and the job writes its result")
    if any(names_python(key, item is not None) for key, item in value.items()):
        findings.has_python = True
    elif not any(key in REMARKABLE or names_python(key, True) for key in names):
        remember_harmless(names)


# Names of the maps that need no second look, whatever stands under them: plans are made of the same few kinds of maps.
harmless_names: set[tuple[Any, ...]] = set()
HARMLESS_MAX = 4_096
HARMLESS_NAMES_MAX = 32
HARMLESS_CHARS_MAX = 64


def remember_harmless(names: tuple[Any, ...]) -> None:
    """Keeps what Polars writes, and little of what anybody else may think of."""
    if len(names) > HARMLESS_NAMES_MAX or len(harmless_names) >= HARMLESS_MAX:
        return
    if all(type(name) is str and len(name) <= HARMLESS_CHARS_MAX for name in names):
        harmless_names.add(names)


def note_pickle(value: bytes | list[Any], findings: Findings) -> None:
    if len(value) <= PICKLE_BYTES_MIN:
        return
    found = pickle_version(value)
    if found is not None:
        findings.has_python = True
        if found != NO_VERSION:
            findings.cloudpickles[findings.index] = found


def names_python(key: Any, is_set: bool) -> bool:
    """Whether a field of this name can carry a pickle. A column of such a name makes it true as well, which does no
    harm.
    """
    text = key.lower() if isinstance(key, str) else ""
    if "python" in text or "anonymous" in text or "callback" in text or text == "pipewithschema":
        return True
    return is_set and text in ("credential_provider", "apply")


def find_option_values(options: Any) -> set[str]:
    """Values of `[[name, value], ...]` that are not plain settings."""
    if not isinstance(options, list):
        return set()
    pairs = [pair for pair in options if isinstance(pair, list) and len(pair) == 2]
    return secret_values({str(name): value for name, value in pairs if isinstance(value, str)})


def adopt_python_micro(data: bytes, findings: Findings) -> bytes:
    """Polars refuses a cloudpickle of another micro version of Python, though only the minor matters to it: write our
    own into the headers.
    """
    own = adopted_micro(findings.cloudpickles.values())
    foreign = [index for index, (_, micro) in findings.cloudpickles.items() if micro != own]
    if not foreign:
        return data
    arena = read_arena(data)
    nodes = list(arena.nodes)
    for index in foreign:
        nodes[index] = Slot(nodes[index].version, rewrite_micro(nodes[index].raw, own))
    return Arena(arena.header, arena.root, arena.frames, nodes).encode()


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
