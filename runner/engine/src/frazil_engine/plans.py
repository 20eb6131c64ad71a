"""Opens plan bytes safely: everything that could make Polars recurse without end, crash or run Python is found before Polars sees the bytes.

Plan bytes are `DSL_VERSION`, two little-endian u16, 64 hex characters of schema hash, then a MessagePack map `{root, dataframes, dsl_plans}`: two slot
maps, whose entries refer to each other by `{idx, version}`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import polars as pl

from frazil_engine import wire
from frazil_engine.errors import Failure, secret_values
from frazil_engine.limits import PLAN_BYTES_MAX, PLAN_DEPTH_MAX, PLAN_NODES_MAX

MAGIC = b"DSL_VERSION"
HASH_START = len(MAGIC) + 4
HEADER_BYTES = HASH_START + 64
REFERENCE_KEYS = {"idx", "version"}
ARENA_KEYS = {"root", "dataframes", "dsl_plans"}
# Under these names a reference is one to an in-memory frame; under any other it is one to a plan node.
FRAME_REFERENCE_NAMES = {"df", "on_columns"}
# Fields that hold references, alone or in lists. A reference written as a bare array would pass by the search for cycles.
REFERENCE_FIELDS = FRAME_REFERENCE_NAMES | {"input", "input_left", "input_right", "inputs", "idxs", "contexts", "relations", "dsl"}
# Where a node stands: at the top of an entry, or inline in a list of inputs.
NODE_PLACES = {"", "inputs", "contexts"}
# First byte says whether cloudpickle wrote what follows; then Python's minor and micro version; then the pickle.
PICKLED_UDF_MAGIC = b"PLPYFN"

Reference = tuple[int, int]


@dataclass(frozen=True)
class Slot:
    """One entry of a slot map, as bytes. An odd version is an entry in use."""

    version: int
    raw: bytes


@dataclass(frozen=True)
class Arena:
    """A plan taken apart. Entries stay bytes, so that what this code does not know passes through as it was."""

    header: bytes
    root: Reference
    frames: list[Slot]
    nodes: list[Slot]

    def encode(self) -> bytes:
        """The plan bytes again."""
        packer = msgpack.Packer(use_bin_type=True)
        parts = [self.header, packer.pack_map_header(3), packer.pack("root"), packer.pack(as_reference(self.root))]
        for name, slots in (("dataframes", self.frames), ("dsl_plans", self.nodes)):
            parts += [packer.pack(name), packer.pack_array_header(len(slots))]
            for slot in slots:
                parts += [packer.pack_map_header(2), packer.pack("value"), slot.raw, packer.pack("version"), packer.pack(slot.version)]
        return b"".join(parts)


@dataclass(frozen=True)
class CheckedPlan:
    """A plan that is safe to hand to Polars."""

    arena: Arena
    has_python: bool
    # Values of storage options inside the plan, which must not appear in messages.
    secrets: frozenset[str]


def refuse(detail: str) -> Failure:
    return Failure("invalid_plan", f"This is not a Polars plan that can be run: {detail}.")


@functools.cache
def own_schema_hash() -> str:
    """The hash in the header of every plan that this Polars release writes."""
    return pl.LazyFrame().serialize()[HASH_START:HEADER_BYTES].decode("ascii")


def check_plan(data: bytes) -> CheckedPlan:
    """Checks plan bytes without handing them to Polars. Raises Failure (invalid_plan, unsupported_polars, unsupported_python, too_large)."""
    if len(data) > PLAN_BYTES_MAX:
        raise Failure(
            "too_large", f"The plan has {len(data):,} bytes, over the limit of {PLAN_BYTES_MAX:,}. Scan the data from storage instead of carrying it."
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
    """Checks the bytes of one expression. Gives them as this Python reads them, and whether Python is in them. Raises Failure (invalid_plan)."""
    findings = Findings()
    inspect_all(decode_checked(data), findings)
    if findings.cloudpickles:
        data = rewrite_micro(data, adopted_micro(findings))
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


def read_arena(data: bytes) -> Arena:
    """Takes plan bytes apart. Raises Failure (invalid_plan)."""
    reader = SlotReader(data, HEADER_BYTES)
    root: Reference | None = None
    slots: dict[str, list[Slot]] = {}
    try:
        reader.expect_map(len(ARENA_KEYS))
        for _ in ARENA_KEYS:
            name = reader.take_value()
            if name == "root":
                root = read_reference(reader.take_value())
            elif name in ("dataframes", "dsl_plans"):
                slots[name] = reader.take_slots()
    except (ValueError, TypeError, wire.WireFault, msgpack.exceptions.UnpackException) as error:
        raise refuse(str(error) or "the bytes end too early") from None
    if root is None or len(slots) != 2 or reader.offset != len(data):
        raise refuse("parts of it are missing, or bytes follow it")
    return Arena(data[:HEADER_BYTES], root, slots["dataframes"], slots["dsl_plans"])


class SlotReader:
    """Goes through the outer layers of an arena in C, and hands out its entries as bytes."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data = data
        self._restart(offset)

    def _restart(self, offset: int) -> None:
        self._base = offset
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=len(self._data))
        self._unpacker.feed(memoryview(self._data)[offset:])

    @property
    def offset(self) -> int:
        return self._base + self._unpacker.tell()

    def expect_map(self, count: int) -> None:
        if self._unpacker.read_map_header() != count:
            raise refuse("its arena has other parts than those expected")

    def take_value(self) -> Any:
        return self._unpacker.unpack()

    def take_slots(self) -> list[Slot]:
        count = self._unpacker.read_array_header()
        if count > PLAN_NODES_MAX:
            raise refuse(f"it has {count:,} nodes, over the limit of {PLAN_NODES_MAX:,}")
        return [self.take_slot() for _ in range(count)]

    def take_slot(self) -> Slot:
        self.expect_map(2)
        fields: dict[str, bytes] = {}
        for _ in range(2):
            name = self._unpacker.unpack()
            fields[name] = self.take_raw()
        version = wire.decode(fields.get("version", b"\xc0"))
        if set(fields) != {"value", "version"} or not isinstance(version, int):
            raise refuse("an entry of its arena is not {value, version}")
        return Slot(version, fields["value"])

    def take_raw(self) -> bytes:
        start = self.offset
        try:
            self._unpacker.skip()
        except msgpack.exceptions.StackError:
            self._restart(wire.end_of_value(self._data, start))
        return self._data[start : self.offset]


def read_reference(value: Any) -> Reference:
    if not is_reference(value):
        raise refuse("a reference is not {idx, version}")
    return value["idx"], value["version"]


def is_reference(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == REFERENCE_KEYS and all(isinstance(part, int) for part in value.values())


def as_reference(reference: Reference) -> dict[str, int]:
    return {"idx": reference[0], "version": reference[1]}


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
        if name in FRAME_REFERENCE_NAMES:
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


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value inside, with the name of the field that it stands in (a list's items have the list's)."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, inner = stack.pop()
        yield name, inner
        if isinstance(inner, dict) and not is_reference(inner):
            stack.extend((str(key), item) for key, item in inner.items())
        elif isinstance(inner, list) and not is_byte_list(inner):
            stack.extend((name, item) for item in inner)


def is_byte_list(value: list[Any]) -> bool:
    """Whether this is a run of numbers, which is how some releases write bytes."""
    return len(value) > 3 and type(value[0]) is int and type(value[-1]) is int


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
    elif isinstance(value, list):
        if name in REFERENCE_FIELDS and value and all(type(item) is int for item in value):
            raise refuse("a reference is not {idx, version}")
    if isinstance(value, (bytes, list)):
        found = pickle_version(value)
        if found is not None:
            findings.has_python = True
            if found != NO_VERSION:
                findings.cloudpickles[findings.index] = found


def names_python(value: dict[Any, Any]) -> bool:
    """Whether a field of this map can carry a pickle. A column of such a name makes it true as well, which does no harm."""
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


NO_VERSION = (-1, -1)


def pickle_version(value: bytes | list[Any]) -> tuple[int, int] | None:
    """Python's (minor, micro) in the header of a cloudpickle; NO_VERSION for a plain pickle; None for anything else."""
    start = pickle_start(value)
    if start is None:
        return None
    return (value[start + 1], value[start + 2]) if value[start] == 1 else NO_VERSION


def pickle_start(value: bytes | list[Any]) -> int | None:
    """Where a pickle's own header begins: a flag for cloudpickle, Python's minor and micro version. The pickle follows."""
    start = 0
    if isinstance(value, bytes) and value.startswith(PICKLED_UDF_MAGIC):
        start = wire.end_of_value(value, len(PICKLED_UDF_MAGIC))
    # A pickle of protocol 2 and above begins with 0x80 and its protocol.
    if len(value) > start + 5 and value[start] in (0, 1) and value[start + 3] == 0x80 and value[start + 4] in (2, 3, 4, 5):
        return start
    return None


def adopt_python_micro(arena: Arena, findings: Findings) -> Arena:
    """Polars refuses a cloudpickle of another micro version of Python, though only the minor matters to it: write our own into the headers."""
    own = adopted_micro(findings)
    nodes = list(arena.nodes)
    for index, (_, micro) in findings.cloudpickles.items():
        if micro != own:
            nodes[index] = Slot(nodes[index].version, rewrite_micro(nodes[index].raw, own))
    return Arena(arena.header, arena.root, arena.frames, nodes)


def adopted_micro(findings: Findings) -> int:
    """Our own micro version. Raises Failure (unsupported_python) for functions of another minor."""
    own = sys.version_info[1:3]
    for minor, _ in findings.cloudpickles.values():
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
        items = container.items() if isinstance(container, dict) else enumerate(container) if isinstance(container, list) else ()
        for key, inner in list(items):
            start = pickle_start(inner) if isinstance(inner, (bytes, list)) else None
            if start is not None and inner[start] == 1:
                container[key] = inner[: start + 2] + type(inner)((micro,)) + inner[start + 3 :]
    return wire.encode(value)


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
