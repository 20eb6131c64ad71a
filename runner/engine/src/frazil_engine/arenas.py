"""Plan bytes taken apart, without handing them to Polars.

Plan bytes are `DSL_VERSION`, two little-endian u16, 64 hex characters of schema hash, then a MessagePack map `{root,
dataframes, dsl_plans}`: two slot maps, whose entries refer to each other by `{idx, version}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from frazil_engine import wire
from frazil_engine.errors import Failure
from frazil_engine.limits import PLAN_NODES_MAX

MAGIC = b"DSL_VERSION"
HASH_START = len(MAGIC) + 4
HEADER_BYTES = HASH_START + 64
REFERENCE_KEYS = {"idx", "version"}
ARENA_KEYS = {"root", "dataframes", "dsl_plans"}
# Under these names a reference is one to an in-memory frame; under any other it is one to a plan node.
FRAME_FIELDS = {"df", "on_columns"}

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
                parts += [
                    packer.pack_map_header(2),
                    packer.pack("value"),
                    slot.raw,
                    packer.pack("version"),
                    packer.pack(slot.version),
                ]
        return b"".join(parts)


def refuse(detail: str) -> Failure:
    return Failure("invalid_plan", f"This is not a Polars plan that can be run: {detail}.")


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
    return (
        isinstance(value, dict)
        and set(value) == REFERENCE_KEYS
        and all(isinstance(part, int) for part in value.values())
    )


def as_reference(reference: Reference) -> dict[str, int]:
    return {"idx": reference[0], "version": reference[1]}


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
