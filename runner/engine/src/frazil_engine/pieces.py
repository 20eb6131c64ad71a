"""The input of a partitioned job, repartitioned once: Arrow IPC files per source and key, in the order of the source's
rows.

They lie under `<results location>/<job>/.pieces/<split task>-<attempt>/<source>/<hash of the key>/<number>.arrow`. A
source without rows of a key has no directory for it. `<split task>-<attempt>/complete` is written last and removed
first: while it is there, what is not there has no rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from typing import Any

import polars as pl

from frazil_engine import carriers
from frazil_engine.key_columns import to_physical
from frazil_engine.keyed_plans import KEY_PREFIX, KeyedPlan, KeyedSource
from frazil_engine.places import ObjectPlace, Place, parse_place
from frazil_engine.protocol import Run
from frazil_engine.sampling import for_each_batch

FOLDER = ".pieces"
COMPLETE = "complete"
INDEX_COLUMN = "__frazil_index"
# Share of the memory that rows may take before they are written out; splitting them takes as much again, twice.
BUFFERED_SHARE = 8
HASH_CHARS = 32


def piece_name(values: list[str | None]) -> str:
    """The directory of a key's rows."""
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[
        :HASH_CHARS
    ]


def match_keys(source: KeyedSource, keys: pl.DataFrame) -> tuple[pl.DataFrame, pl.LazyFrame]:
    """The distinct keys of this source with an index, and the source's needed columns with the index of each row's key.
    Rows of other keys are left out.
    """
    names = list(source.exprs)
    own = keys.select(carriers.columns(names)).unique(maintain_order=True)
    hidden = [KEY_PREFIX + name for name in names]
    dtypes = source.compared_dtypes(own.schema)
    right = own.select(
        pl.col(carriers.escape(name)).cast(dtypes[name]).alias(KEY_PREFIX + name) for name in names
    ).with_row_index(INDEX_COLUMN)
    left = source.frame.filter(key_ranges(source, own)).select(
        *carriers.columns(source.needed),
        *(expr.cast(dtypes[name]).alias(KEY_PREFIX + name) for name, expr in source.exprs.items()),
    )
    joined = left.join(right.lazy(), on=hidden, how="inner", nulls_equal=True, maintain_order="left")
    return own, joined.select(*carriers.columns(source.needed), INDEX_COLUMN)


def key_ranges(source: KeyedSource, own: pl.DataFrame) -> list[pl.Expr]:
    """Conditions that every row of these keys meets, in a form with which Polars skips parts of files by their
    statistics.
    """
    conditions = [pl.lit(True)]
    for name, column in zip(own.columns, own.get_columns(), strict=True):
        is_ordered = column.dtype.is_integer() or column.dtype.is_temporal()
        if (
            name in source.plain
            and is_ordered
            and source.schema[name] == column.dtype
            and column.null_count() == 0
            and len(column) > 0
        ):
            physical = column.to_physical()
            # Statistics are compared with literals only, of which a cast one is still one.
            low, high = (
                pl.lit(bound, dtype=physical.dtype).cast(column.dtype) for bound in (physical.min(), physical.max())
            )
            conditions.append(pl.col(carriers.escape(name)).is_between(low, high))
    return conditions


def write_pieces(run: Run, plan: KeyedPlan, keys: pl.DataFrame, memory_bytes: int) -> dict[str, Any]:
    """Reads every keyed source once and writes its rows by key. Gives what key runs need to find them."""
    task = run.tasks[0]
    place = parse_place(run.results_location, None)
    folder = join(place, run.job_id, FOLDER)
    for earlier in range(1, task.attempt):
        with contextlib.suppress(Exception):
            remove_all(join(folder, f"{task.task_id}-{earlier}"))
    root = join(folder, f"{task.task_id}-{task.attempt}")
    try:
        for source in plan.keyed:
            write_source(join(root, str(source.number)), source, keys, memory_bytes)
        write_bytes(join(root, COMPLETE), b"")
    except BaseException:
        # Not every failure has its job swept: what was written goes with this attempt.
        with contextlib.suppress(Exception):
            remove_all(root)
        raise
    return {
        "root": root.url if isinstance(root, ObjectPlace) else root,
        "needed": {str(source.number): source.needed for source in plan.keyed},
    }


def write_source(folder: Place, source: KeyedSource, keys: pl.DataFrame, memory_bytes: int) -> None:
    own, frame = match_keys(source, keys)
    names = [piece_name(list(values)) for values in to_physical(own).rows()]
    writer = PieceWriter(folder, names, memory_bytes // BUFFERED_SHARE)
    for_each_batch(carriers.encode_frame(frame), writer.add)
    writer.flush()


class PieceWriter:
    """Gathers rows and writes them out by key, so that a key has few files, each of many rows."""

    def __init__(self, folder: Place, names: list[str], bytes_max: int) -> None:
        self._folder = folder
        self._names = names
        self._bytes_max = bytes_max
        self._batches: list[pl.DataFrame] = []
        self._bytes = 0
        self._number = 0

    def add(self, batch: pl.DataFrame) -> bool:
        self._batches.append(batch)
        self._bytes += batch.estimated_size()
        if self._bytes >= self._bytes_max:
            self.flush()
        return False

    def flush(self) -> None:
        if not self._batches:
            return
        together = pl.concat(self._batches)
        self._batches, self._bytes = [], 0
        for index, rows in together.partition_by(
            INDEX_COLUMN, as_dict=True, include_key=False, maintain_order=True
        ).items():
            write_piece(join(self._folder, self._names[index[0]], f"{self._number:06}.arrow"), rows)
        self._number += 1


def join(place: Place, *names: str) -> Place:
    return place.below(*names) if isinstance(place, ObjectPlace) else os.path.join(place, *names)


def write_piece(place: Place, rows: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    rows.write_ipc(buffer, compression="lz4")
    write_bytes(place, buffer.getvalue())


def write_bytes(place: Place, data: bytes) -> None:
    if isinstance(place, ObjectPlace):
        from frazil_engine import objects

        objects.write(place, data)
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "wb") as file:
        file.write(data)


def is_complete(root: Place) -> bool:
    """Whether the pieces are all there, but for those whose task is done."""
    if isinstance(root, ObjectPlace):
        from frazil_engine import objects

        return objects.exists(root.below(COMPLETE))
    return os.path.exists(os.path.join(root, COMPLETE))


def list_piece(folder: Place) -> list[str]:
    """The files of one key's rows, in order; none when there are none."""
    if isinstance(folder, ObjectPlace):
        from frazil_engine import objects

        return sorted(f"{folder.root}/{key}" for key in objects.list_keys(folder))
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except FileNotFoundError:
        return []


def remove_piece(folder: Place) -> None:
    """Frees the space of rows that are no longer needed, and their parents when they were the last."""
    if isinstance(folder, ObjectPlace):
        from frazil_engine import objects

        objects.delete_below(folder)
        return
    shutil.rmtree(folder, ignore_errors=True)
    source = os.path.dirname(folder)
    root = os.path.dirname(source)
    with contextlib.suppress(OSError):
        os.rmdir(source)
    with contextlib.suppress(OSError):
        if os.listdir(root) == [COMPLETE]:
            os.unlink(os.path.join(root, COMPLETE))
            os.rmdir(root)
            os.rmdir(os.path.dirname(root))


def remove_all(root: Place) -> None:
    """Removes all pieces of one split attempt."""
    if isinstance(root, ObjectPlace):
        from frazil_engine import objects

        objects.delete(root.below(COMPLETE))
        objects.delete_below(root)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(root, COMPLETE))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)


def remove_of_job(results: Place, job_id: str) -> None:
    """Removes all pieces of a job, whatever attempts made them."""
    folder = join(results, job_id, FOLDER)
    if isinstance(folder, ObjectPlace):
        from frazil_engine import objects

        for key in objects.list_keys(folder):
            if key.endswith(f"/{COMPLETE}"):
                objects.delete(ObjectPlace(folder.root, key))
        objects.delete_below(folder)
        return
    try:
        roots = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in roots:
        remove_all(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def scan_piece(files: list[str], needed: list[str], schema: pl.Schema) -> pl.LazyFrame:
    """A scan of one key's rows in the shape of the source. The query does not read the columns that are not there."""
    if not files:
        return pl.LazyFrame(schema=schema)
    rows = carriers.decode_frame(pl.scan_ipc(files, glob=False))
    return rows.select(
        pl.col(carriers.escape(name)) if name in needed else pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )
