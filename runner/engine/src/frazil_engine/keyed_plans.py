"""A plan seen by its keys: which of its sources a key filters, which columns of them the query needs, and what may be
filtered while reading.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from frazil_engine import wire
from frazil_engine.arenas import Arena
from frazil_engine.errors import Failure
from frazil_engine.grafts import (
    Draft,
    Node,
    NodePlace,
    Source,
    find_references,
    find_sources,
    lift_row_indexes,
    lift_sql_sources,
)
from frazil_engine.key_columns import KeyColumn, applies, common_dtype, key_expr
from frazil_engine.opening import OpenedPlan, deserialize

KEY_PREFIX = "__frazil_key_"


@dataclass
class KeyedSource:
    """One source of the plan. `exprs` makes the keys that apply to it, by name; a source without any is read whole."""

    source: Source
    frame: pl.LazyFrame
    schema: pl.Schema
    exprs: dict[str, pl.Expr] = field(default_factory=dict)
    dtypes: dict[str, pl.DataType] = field(default_factory=dict)
    needed: list[str] = field(default_factory=list)
    # Keys that are columns of the source as they are.
    plain: set[str] = field(default_factory=set)

    @property
    def number(self) -> int:
        return self.source.number

    def compared_dtypes(self, keys: pl.Schema) -> pl.Schema:
        """The types in which this source's values are compared with the keys. A source that has only some of the keys
        is not among those that decide the keys' types, and its own may hold more than those do.
        """
        # Asked for each key: most sources have the keys' own types.
        return pl.Schema(
            {
                name: dtype if dtype == keys[name] else common_dtype(dtype, keys[name])
                for name, dtype in self.dtypes.items()
            }
        )


@dataclass(frozen=True)
class KeyedPlan:
    """The plan, its keys and all of its sources."""

    arena: Arena
    columns: list[KeyColumn]
    sources: list[KeyedSource]
    has_python: bool

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def keyed(self) -> list[KeyedSource]:
        return [source for source in self.sources if source.exprs]

    @property
    def complete(self) -> list[KeyedSource]:
        """Sources that have every key: the values come from these."""
        return [source for source in self.sources if len(source.exprs) == len(self.columns)]


def analyse(plan: OpenedPlan) -> KeyedPlan:
    """Finds the sources that the keys apply to. Raises Failure (invalid_key)."""
    draft = Draft(plan.arena)
    lift_sql_sources(draft)
    lift_row_indexes(draft)
    draft = Draft(draft.finish())
    columns = plan.key_columns
    sources = []
    for source in find_sources(draft):
        frame = deserialize(source.arena.encode())
        keyed = KeyedSource(source, frame, frame.collect_schema())
        for column in columns:
            if applies(column, keyed.schema):
                keyed.exprs[column.name], keyed.dtypes[column.name] = key_expr(column, keyed.schema)
                if column.is_plain:
                    keyed.plain.add(column.name)
        sources.append(keyed)
    keyed_plan = KeyedPlan(draft.finish(), columns, sources, plan.has_python)
    check_keys(draft, keyed_plan)
    check_dtypes(keyed_plan)
    find_needed_columns(keyed_plan)
    return keyed_plan


def check_keys(draft: Draft, plan: KeyedPlan) -> None:
    for column in plan.columns:
        if any(column.name in source.exprs for source in plan.sources):
            continue
        available = sorted({name for source in plan.sources for name in source.schema.names()})
        missing = ", ".join(f'"{name}"' for name in sorted(column.roots))
        raise Failure(
            "invalid_key",
            f'No data that the query reads has the column {missing} of key "{column.name}". '
            f"It reads: {', '.join(available)}.",
            hint=find_maker(draft, column.name),
        )
    if not plan.complete:
        raise Failure(
            "invalid_key",
            f"No single source has all of the keys {', '.join(plan.names)}: their combinations can't be listed.",
            hint="Partition by keys that stand together in one of the sources.",
        )


def check_dtypes(plan: KeyedPlan) -> None:
    """Refuses keys whose values in two sources can't be compared."""
    for name in plan.names:
        dtypes = [source.dtypes[name] for source in plan.keyed if name in source.dtypes]
        try:
            # The sources with every key decide the key's type; each source is compared with it.
            key_dtype = common_dtype(*(source.dtypes[name] for source in plan.complete))
            for dtype in dtypes:
                common_dtype(dtype, key_dtype)
        except pl.exceptions.PolarsError as error:
            raise Failure(
                "invalid_key",
                f'Key "{name}" is of types that can\'t be compared in the data that the query reads: '
                f"{', '.join(sorted(set(map(str, dtypes))))}.",
                hint="Cast the column where the data is made, or rename it there if it is no key.",
            ) from error


def find_maker(draft: Draft, name: str) -> str:
    """What to write instead of a column that is made inside the query."""
    for node in draft.nodes():
        for item in list_expressions(node):
            text = describe_maker(item, name)
            if text is not None:
                return (
                    f'"{name}" is made inside the query. Partition by the expression over source columns instead: '
                    f"partition_by({text})."
                )
        if name in new_names(node):
            return (
                f'"{name}" is a new name given inside the query. Partition by the column of the source: '
                f'partition_by(pl.col(...).alias("{name}")).'
            )
    return "Partition by a column of the data that the query reads, or by an expression over such columns."


def list_expressions(node: Node) -> list[Any]:
    fields = node.value[node.kind]
    if not isinstance(fields, dict):
        return []
    lists = [fields.get(name) for name in ("expr", "exprs", "keys", "aggs")]
    return [item for items in lists if isinstance(items, list) for item in items]


def describe_maker(item: Any, name: str) -> str | None:
    """The expression in Python, when it makes a column of this name and changes something."""
    if not isinstance(item, dict):
        return None
    try:
        expr = pl.Expr.deserialize(io.BytesIO(wire.encode(item)))
        if expr.meta.output_name() != name or expr.meta.is_column():
            return None
    except Exception:
        # Selectors and renaming functions have no name of their own.
        return None
    text = re.sub(r"dyn (int|float): ", "", str(expr)).replace("[(", "((").replace(")]", "))")
    return re.sub(r"(?<![\w.\"])(col|lit|when|len)\(", r"pl.\1(", re.sub(r"(?<!\w)\.when", "when", text))


def new_names(node: Node) -> list[str]:
    fields = node.value[node.kind]
    function = fields.get("function") if isinstance(fields, dict) else None
    rename = function.get("Rename") if isinstance(function, dict) else None
    return rename.get("new", []) if isinstance(rename, dict) else []


def find_needed_columns(plan: KeyedPlan) -> None:
    """Asks Polars' own optimiser which columns of each source the query needs. Every column, where it can't tell."""
    tokens = {f"{id(plan)}-{source.number}": source for source in plan.sources}
    asked: dict[str, list[str] | None] = {}
    # The optimised plan is internal to Polars; an answer that it does not give is no failure.
    with contextlib.suppress(Exception):
        draft = Draft(plan.arena)
        for token, source in tokens.items():
            for place in source.source.places:
                draft.graft(place, marked_frame(token, source.schema))
        asked = projections(deserialize(draft.finish().encode()), set(tokens))
    for token, source in tokens.items():
        names = source.schema.names()
        columns = asked.get(token, None)
        wanted = set(names if columns is None else columns)
        # A source of which only the rows are counted still needs a column, to have rows.
        source.needed = [name for name in names if name in wanted] or cheapest_column(source.schema)


def cheapest_column(schema: pl.Schema) -> list[str]:
    names = schema.names()
    return [next((name for name in names if schema[name].is_numeric()), names[0])] if names else []


def read_mark(token: str, with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
    """A source that is never read: only its place in the optimised plan is looked for."""
    raise AssertionError(token)


def marked_frame(token: str, schema: pl.Schema) -> pl.LazyFrame:
    return register_io_source(functools.partial(read_mark, token), schema=schema, is_pure=True)


def projections(frame: pl.LazyFrame, tokens: set[str]) -> dict[str, list[str] | None]:
    """For each marked source the columns that are read of it, over all of its places; None for all."""
    visitor = frame._ldf.visit()
    found: dict[str, list[str] | None] = {}
    pending = [visitor.get_node()]
    while pending:
        visitor.set_node(pending.pop())
        pending += visitor.get_inputs()
        try:
            options = getattr(visitor.view_current_node(), "options", None)
        except Exception:
            # Polars can't show every kind of node; sources it can.
            continue
        if not isinstance(options, (tuple, list)) or not options:
            continue
        token = find_token(options[0], tokens)
        if token is not None:
            columns = options[1]
            known = found.get(token, [])
            found[token] = None if columns is None or known is None else [*known, *columns]
    return found


def find_token(function: Any, tokens: set[str]) -> str | None:
    """Polars wraps a source's function; the token is among the arguments bound to what it wraps."""
    for cell in getattr(inspect.unwrap(function), "__closure__", None) or ():
        arguments = getattr(cell.cell_contents, "args", ())
        if arguments and arguments[0] in tokens:
            return arguments[0]
    return None


def reading_predicate(plan: KeyedPlan, source: KeyedSource) -> pl.Expr | None:
    """A predicate that every path from this source to the result applies anyway, in the part that each row decides
    alone; None for none.
    """
    users = None if plan.has_python else users_of_kind(plan, source, "Filter")
    if users is None:
        return None
    predicates = []
    for place, user in users:
        pushed = pushed_predicate(plan, source, place, user.place)
        if pushed is None:
            return None
        predicates.append(pushed)
    return pl.any_horizontal(predicates) if len(predicates) > 1 else predicates[0]


# Polars writes a slice without an end with this length.
ROWS_WITHOUT_END = 2**32 - 1


def reading_limit(plan: KeyedPlan, source: KeyedSource) -> int | None:
    """The number of first rows beyond which the query reads nothing of this source; None where it may read all."""
    users = users_of_kind(plan, source, "Slice")
    if users is None:
        return None
    slices = [user.value["Slice"] for _, user in users]
    if any(fields["offset"] < 0 for fields in slices):
        return None
    rows = max(fields["offset"] + fields["len"] for fields in slices)
    return rows if rows < ROWS_WITHOUT_END else None


def users_of_kind(plan: KeyedPlan, source: KeyedSource, kind: str) -> list[tuple[NodePlace, Node]] | None:
    """Every place of the source with every node that reads it there; None where one of another kind does."""
    parents: dict[int, list[Node]] = {}
    for node in Draft(plan.arena).nodes():
        for _, index in find_references(node.value[node.kind]):
            parents.setdefault(index, []).append(node)
    found = []
    for place in source.source.places:
        users = parents.get(place.slot, [])
        if place.path or not users or any(user.kind != kind for user in users):
            return None
        found += [(place, user) for user in users]
    return found


def pushed_predicate(plan: KeyedPlan, source: KeyedSource, place: NodePlace, filter_place: NodePlace) -> pl.Expr | None:
    """What of a filter Polars moves into the source below it."""
    predicates: list[pl.Expr | None] = []
    token = f"{id(predicates)}"
    part = Draft(Draft(plan.arena).below(filter_place))
    asked_of[token] = (source.schema, predicates)
    try:
        part.graft(place, register_io_source(functools.partial(read_probe, token), schema=source.schema))
        deserialize(part.finish().encode()).collect()
    except pl.exceptions.PolarsError:
        return None
    finally:
        del asked_of[token]
    return predicates[0] if len(predicates) == 1 else None


# A plan is pickled on its way through Polars, so that what stands in for a source is found again by a token.
asked_of: dict[str, tuple[pl.Schema, list[pl.Expr | None]]] = {}


def read_probe(
    token: str, with_columns: Any, predicate: pl.Expr | None, n_rows: Any, batch_size: Any
) -> Iterator[pl.DataFrame]:
    """A source without rows, which notes the predicate that Polars hands to it."""
    schema, predicates = asked_of[token]
    predicates.append(predicate)
    yield pl.DataFrame(schema=schema)
