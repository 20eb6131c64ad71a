"""Changes plans without knowing their expressions: finds the sources of a plan, takes out the part below a node, and
puts another plan in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from frazil_engine import wire
from frazil_engine.arenas import FRAME_FIELDS, Arena, Reference, Slot, as_reference, is_reference, read_arena, walk
from frazil_engine.sql_text import lift_scans

SOURCE_KINDS = {"Scan", "DataFrameScan", "PythonScan"}
# Fields whose nodes stand inline instead of being referred to.
INLINE_FIELDS = ("inputs", "contexts")
NIL = b"\xc0"

# Path of keys and indices to a node inside the value of its entry; empty for the entry's own node.
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class NodePlace:
    """Where a node stands in an arena."""

    slot: int
    path: Path


@dataclass(frozen=True)
class Node:
    """A node of a plan: its kind, and its fields as MessagePack has them."""

    place: NodePlace
    kind: str
    value: Any


class Draft:
    """An arena that is being changed."""

    def __init__(self, arena: Arena) -> None:
        self._header = arena.header
        self._frames = list(arena.frames)
        self._nodes = list(arena.nodes)
        self.root = arena.root
        self._values: dict[int, Any] = {}

    def value(self, slot: int) -> Any:
        """The decoded entry. It must not be changed in place."""
        if slot not in self._values:
            self._values[slot] = wire.decode(self._nodes[slot].raw)
        return self._values[slot]

    def reachable(self) -> list[int]:
        """The entries that the root leads to, each once, the root first."""
        order: dict[int, None] = {}
        pending = [self.root[0]]
        while pending:
            slot = pending.pop()
            if slot in order:
                continue
            order[slot] = None
            pending += [index for name, index in find_references(self.value(slot)) if name not in FRAME_FIELDS]
        return list(order)

    def nodes(self) -> Iterator[Node]:
        """Every node that the root leads to, the inline ones too."""
        for slot in self.reachable():
            yield from inline_nodes(NodePlace(slot, ()), self.value(slot))

    def set_node(self, place: NodePlace, value: Any) -> None:
        """Puts another node in this place; everything that led to the old one leads to it."""
        replaced = replace_at(self.value(place.slot), place.path, value)
        self._values[place.slot] = replaced
        self._nodes[place.slot] = Slot(self._nodes[place.slot].version, wire.encode(replaced))

    def add_node(self, value: Any) -> Reference:
        """Adds a node as an entry of its own."""
        self._nodes.append(Slot(1, wire.encode(value)))
        return len(self._nodes) - 1, 1

    def add_plan(self, frame: pl.LazyFrame) -> Any:
        """Adds another plan, and gives its root node, which is for the caller to place."""
        other = Draft(read_arena(frame.serialize()))
        slots = [slot for slot in other.reachable() if slot != other.root[0]]
        node_shift = {slot: len(self._nodes) + position for position, slot in enumerate(slots)}
        frame_shift = {index: len(self._frames) + index for index in range(len(other._frames))}
        self._frames += other._frames
        for slot in slots:
            self._nodes.append(
                Slot(other._nodes[slot].version, wire.encode(shift(other.value(slot), node_shift, frame_shift)))
            )
        return shift(other.value(other.root[0]), node_shift, frame_shift)

    def graft(self, place: NodePlace, frame: pl.LazyFrame) -> None:
        """Puts a whole plan in the place of one node."""
        self.set_node(place, self.add_plan(frame))

    def below(self, place: NodePlace) -> Arena:
        """The plan that ends in this node."""
        part = Draft(Arena(self._header, self.root, self._frames, self._nodes))
        part.root = (
            (place.slot, self._nodes[place.slot].version)
            if not place.path
            else part.add_node(value_at(self.value(place.slot), place.path))
        )
        return part.finish()

    def finish(self) -> Arena:
        """The arena again, without what its root no longer leads to."""
        kept = set(self.reachable())
        kept_frames = {
            index for slot in kept for name, index in find_references(self.value(slot)) if name in FRAME_FIELDS
        }
        nodes = [slot if index in kept else vacate(slot) for index, slot in enumerate(self._nodes)]
        frames = [slot if index in kept_frames else vacate(slot) for index, slot in enumerate(self._frames)]
        return Arena(self._header, self.root, frames, nodes)


def vacate(slot: Slot) -> Slot:
    """An entry that is free again: its version is even."""
    return slot if slot.version % 2 == 0 else Slot(slot.version + 1, NIL)


def find_references(value: Any) -> list[tuple[str, int]]:
    return [(name, inner["idx"]) for name, inner in walk(value) if is_reference(inner)]


def inline_nodes(place: NodePlace, value: Any) -> Iterator[Node]:
    """This node and those that stand inline in it."""
    if not isinstance(value, dict) or len(value) != 1:
        return
    kind, fields = next(iter(value.items()))
    yield Node(place, kind, value)
    if not isinstance(fields, dict):
        return
    for name in INLINE_FIELDS:
        items = fields.get(name)
        if isinstance(items, list):
            for index, item in enumerate(items):
                if not is_reference(item):
                    yield from inline_nodes(NodePlace(place.slot, (*place.path, kind, name, index)), item)


def value_at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def replace_at(value: Any, path: Path, new: Any) -> Any:
    """A copy in which something else stands at the path."""
    if not path:
        return new
    copied = list(value) if isinstance(value, list) else dict(value)
    copied[path[0]] = replace_at(value[path[0]], path[1:], new)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return copied


def shift(value: Any, nodes: dict[int, int], frames: dict[int, int], name: str = "") -> Any:
    """A copy whose references lead to the same entries under their new numbers."""
    if is_reference(value):
        moved = (frames if name in FRAME_FIELDS else nodes)[value["idx"]]
        return as_reference((moved, value["version"]))
    if isinstance(value, dict):
        return {key: shift(item, nodes, frames, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [shift(item, nodes, frames, name) for item in value]
    return value


@dataclass(frozen=True)
class Source:
    """Something that a plan reads: a scan, an in-memory frame or a Python source. Equal ones are one source with
    several places.
    """

    number: int
    places: list[NodePlace]
    kind: str
    arena: Arena


def find_sources(draft: Draft) -> list[Source]:
    """The sources of a plan, numbered in an order that is the same in every process."""
    found: dict[bytes, Source] = {}
    for node in sorted(draft.nodes(), key=lambda node: (node.place.slot, str(node.place.path))):
        if node.kind not in SOURCE_KINDS:
            continue
        same = found.setdefault(wire.encode(node.value), Source(len(found), [], node.kind, draft.below(node.place)))
        same.places.append(node.place)
    return list(found.values())


def lift_sql_sources(draft: Draft) -> None:
    """Some releases keep SQL text in a node of its own: its table functions become relations of that node, so that they
    are sources like others.
    """
    for node in list(draft.nodes()):
        if node.kind != "SQL":
            continue
        fields = dict(node.value["SQL"])
        relations = list(fields["relations"])

        def name_scan(scan: pl.LazyFrame, relations: list[Any] = relations) -> str:
            name = f"__frazil_source_{len(relations)}"
            relations.append([name, as_reference(draft.add_node(draft.add_plan(scan)))])
            return name

        fields["query"] = lift_scans(fields["query"], name_scan)
        draft.set_node(node.place, {"SQL": {**fields, "relations": relations}})


def lift_row_indexes(draft: Draft) -> None:
    """Polars makes `with_row_index` right above a scan an argument of that scan: it becomes a node again, so that a
    filter can stand between them.
    """
    for node in list(draft.nodes()):
        if node.kind != "Scan" or node.value["Scan"]["unified_scan_args"].get("row_index") is None:
            continue
        fields = node.value["Scan"]
        arguments = fields["unified_scan_args"]
        scan = draft.add_node({"Scan": {**fields, "unified_scan_args": {**arguments, "row_index": None}}})
        function = {"RowIndex": arguments["row_index"]}
        draft.set_node(node.place, {"MapFunction": {"input": as_reference(scan), "function": function}})
