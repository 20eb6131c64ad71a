"""Runs a query once per key of a batch, with one read of the input for all of them.

Each keyed source is read once, only in the columns that the query needs, and split in memory; or its rows lie ready
as pieces. Where neither is so (the rows do not fit, or a piece was removed because its task was done before), the
source is scanned with a filter. Every key is answered on its own.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import polars as pl

from frazil_engine import memory_sources, pieces
from frazil_engine.arenas import Arena
from frazil_engine.carriers import columns
from frazil_engine.errors import Failure, describe_error, secret_values
from frazil_engine.grafts import Draft
from frazil_engine.key_columns import decode_schema, decode_token, from_physical
from frazil_engine.keyed_plans import KEY_PREFIX, KeyedPlan, KeyedSource, analyse, reading_limit, reading_predicate
from frazil_engine.logs import TaskLog
from frazil_engine.opening import OpenedPlan, deserialize, open_plan
from frazil_engine.outcomes import Answer, Outcome, Staged, fail, settle, write_task
from frazil_engine.pieces import INDEX_COLUMN, match_keys
from frazil_engine.places import Place, parse_place
from frazil_engine.protocol import Run, Task
from frazil_engine.sampling import read_up_to
from frazil_engine.session import Clock, Decision, Session, set_seeds
from frazil_engine.user_code import last_exception

# Shares of the memory: rows of keyed sources (splitting them takes as much again), and sources that every key reads
# whole.
KEYED_SHARE = 3
WHOLE_SHARE = 6


@dataclass(frozen=True)
class KeyTask:
    """One key of the batch."""

    task: Task
    values: list[str | None]
    # Numbers of the sources in which the key occurs.
    sources: list[int]
    row: int


@dataclass
class Batch:
    """The keys of a run, and where the rows of each source are."""

    plan: KeyedPlan
    keys: pl.DataFrame
    key_tasks: list[KeyTask]
    # The plan in which the sources that are read whole are held in memory already, where they fit.
    arena: Arena
    # Source number to the token of each row of `keys`, None where there are no rows; a missing source is scanned with a
    # filter.
    held: dict[int, list[str | None]] = field(default_factory=dict)
    pieces_root: Place | None = None
    pieces_needed: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A worker is done with a key."""

    key_task: KeyTask
    outcome: Outcome
    usage: dict[str, float]


def serve_keys(session: Session, run: Run) -> None:
    """Answers every key of the run."""
    clock = Clock()
    secrets = secret_values(run.output.storage_options)
    try:
        plan = open_plan(run, session.announce_python)
        secrets |= plan.secrets
        session.progress(run.tasks[0].task_id, "reading the input")
        batch = prepare(run, plan)
    except BaseException as error:
        memory_sources.release_all()
        for task in run.tasks:
            answer = fail(task, error, secrets)
            session.channel.send({**answer.message, "usage": clock.usage(1 / len(run.tasks))})
        return
    # Python holds a lock of its own, and seeds are the process's: such queries run one after the other, and their
    # output belongs to one task.
    workers = 1 if plan.has_python or run.seed is not None else run.threads
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="frazil-key") as pool:
            for key_task in batch.key_tasks:
                pool.submit(run_key, session, run, batch, key_task, secrets, 1 / workers)
            settle_all(session, run, batch, secrets)
    finally:
        memory_sources.release_all()


def prepare(run: Run, plan: OpenedPlan) -> Batch:
    if run.partition_by is None or not isinstance(run.split_state, dict):
        raise Failure("invalid_request", "A key run carries no keys, or not what its split has found.")
    keyed = analyse(plan)
    schema = decode_schema(run.split_state["keySchema"])
    tokens = [decode_token(task.key_token, len(schema)) for task in run.tasks]
    keys = from_physical([values for values, _ in tokens], schema)
    key_tasks = [
        KeyTask(task, values, sources, row)
        for row, (task, (values, sources)) in enumerate(zip(run.tasks, tokens, strict=True))
    ]
    batch = Batch(keyed, keys, key_tasks, hold_whole_sources(keyed, run.memory_bytes))
    stored = run.split_state.get("pieces")
    # A retry of the job comes when its pieces may have been removed: then it reads the input again.
    if stored is not None and pieces.is_complete(parse_place(stored["root"], None)):
        batch.pieces_root = parse_place(stored["root"], None)
        batch.pieces_needed = stored["needed"]
        return batch
    budget = run.memory_bytes // KEYED_SHARE
    for source in keyed.keyed:
        held = hold_by_key(keyed, source, keys, budget)
        if held is None:
            break
        tokens_of_keys, size = held
        batch.held[source.number] = tokens_of_keys
        budget -= size
    return batch


def hold_whole_sources(plan: KeyedPlan, memory_bytes: int) -> Arena:
    """Reads the sources that no key filters once for all keys, as far as they fit."""
    draft = Draft(plan.arena)
    budget = memory_bytes // WHOLE_SHARE
    for source in plan.sources:
        if source.exprs or not source.needed:
            continue
        rows = read_whole(plan, source, budget)
        if rows is None:
            continue
        budget -= int(rows.estimated_size())
        token = memory_sources.hold(rows)
        for place in source.source.places:
            draft.graft(place, memory_sources.scan_held(token, source.schema))
    return draft.finish()


def read_whole(plan: KeyedPlan, source: KeyedSource, bytes_max: int) -> pl.DataFrame | None:
    """What the query can need of a source; None when that is too much. A query that reads less may have no trouble with
    rows that can't be read: then each key finds out for itself.
    """
    frame = source.frame.select(columns(source.needed))
    rows_max = reading_limit(plan, source)
    try:
        return read_up_to(frame if rows_max is None else frame.head(rows_max), bytes_max)
    except BaseException as error:
        if isinstance(error, (SystemExit, KeyboardInterrupt)) or describe_error(error)[1]:
            raise
        # What fails next did not fail because of this.
        last_exception.forget()
        return None


def hold_by_key(
    plan: KeyedPlan, source: KeyedSource, keys: pl.DataFrame, bytes_max: int
) -> tuple[list[str | None], int] | None:
    """Reads a source once and holds its rows by key; None when they are too many. Gives a token per row of `keys`, and
    the size.
    """
    own, rows = read_matching(plan, source, keys, bytes_max)
    if rows is None:
        return None
    size = int(rows.estimated_size())
    parts = rows.partition_by(INDEX_COLUMN, as_dict=True, include_key=False, maintain_order=True)
    tokens = {index: memory_sources.hold(part) for (index,), part in parts.items()}
    # Older releases take no pattern as the key of a join, not even one of a single name.
    hidden = [KEY_PREFIX + name for name in source.exprs]
    exprs = [column.alias(name) for column, name in zip(columns(source.exprs), hidden, strict=True)]
    positions = keys.select(exprs).join(
        own.select(exprs).with_row_index(INDEX_COLUMN), on=hidden, how="left", nulls_equal=True, maintain_order="left"
    )
    return [tokens.get(index) for index in positions.get_column(INDEX_COLUMN)], size


def read_matching(
    plan: KeyedPlan, source: KeyedSource, keys: pl.DataFrame, bytes_max: int
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The rows of these keys. What the query filters anyway is left out while reading; should that fail for a row of
    some other key, it is not.
    """
    predicate = reading_predicate(plan, source)
    if predicate is not None:
        own, frame = match_keys(replace(source, frame=source.frame.filter(predicate)), keys)
        try:
            return own, read_up_to(frame, bytes_max)
        except pl.exceptions.PolarsError:
            pass
    own, frame = match_keys(source, keys)
    return own, read_up_to(frame, bytes_max)


def run_key(session: Session, run: Run, batch: Batch, key_task: KeyTask, secrets: set[str], share: float) -> None:
    """Runs one key in a worker's thread, and hands its outcome to the main thread, which waits for one whatever
    happens here.
    """
    clock = Clock()
    outcome: Outcome
    try:
        with session.logs.attribute_to(key_task.task.task_id) as log:
            outcome = try_key(run, batch, key_task, secrets, log)
        release(batch, key_task)
    except BaseException as error:
        outcome = fail(key_task.task, error, secrets)
    session.events.put(Finished(key_task, outcome, clock.usage(share)))


def try_key(run: Run, batch: Batch, key_task: KeyTask, secrets: set[str], log: TaskLog) -> Outcome:
    try:
        set_seeds(run.seed, batch.plan.has_python)
        try:
            return write_key(run, batch, key_task, True, log)
        except Exception:
            if not memory_sources.too_narrow:
                raise
            return write_key(run, batch, key_task, False, log)
    except BaseException as error:
        cause = error
        # Where storage does not even tell whether the pieces are there, the key's own error stands.
        with contextlib.suppress(Exception):
            cause = pieces_removed(batch) or error
        return fail(key_task.task, cause, secrets)


def write_key(run: Run, batch: Batch, key_task: KeyTask, use_held: bool, log: TaskLog) -> Outcome:
    return write_task(run, key_task.task, key_frame(batch, key_task, use_held), batch.plan.has_python, log)


def key_frame(batch: Batch, key_task: KeyTask, use_held: bool) -> pl.LazyFrame:
    """The query with this key's rows in the place of every keyed source."""
    draft = Draft(batch.arena if use_held else batch.plan.arena)
    for source in batch.plan.keyed:
        rows = rows_of(batch, source, key_task) if use_held else filtered_rows(batch, source, key_task)
        for place in source.source.places:
            draft.graft(place, rows)
    return deserialize(draft.finish().encode())


def rows_of(batch: Batch, source: KeyedSource, key_task: KeyTask) -> pl.LazyFrame:
    if source.number in batch.held:
        token = batch.held[source.number][key_task.row]
        return pl.LazyFrame(schema=source.schema) if token is None else memory_sources.scan_held(token, source.schema)
    folder = piece_folder(batch, source, key_task)
    if folder is None:
        return filtered_rows(batch, source, key_task)
    is_complete = len(source.exprs) == len(batch.plan.columns)
    files = pieces.list_piece(folder)
    if not files and is_complete and source.number in key_task.sources:
        # The piece was removed when its task was done, and now the task runs again.
        return filtered_rows(batch, source, key_task)
    # Looked at after the files: those listed before the mark went are all of them.
    if (removed := pieces_removed(batch)) is not None:
        raise removed
    return pieces.scan_piece(files, batch.pieces_needed[str(source.number)], source.schema)


def pieces_removed(batch: Batch) -> Failure | None:
    """Only a retry of an ended job can see its pieces go. Tried again, it reads the input itself."""
    if batch.pieces_root is None or pieces.is_complete(batch.pieces_root):
        return None
    return Failure("storage_failed", "The rows of this key were removed while it ran, since the job had ended.")


def piece_folder(batch: Batch, source: KeyedSource, key_task: KeyTask) -> Place | None:
    if batch.pieces_root is None:
        return None
    values = [value for name, value in zip(batch.plan.names, key_task.values, strict=True) if name in source.exprs]
    return pieces.join(batch.pieces_root, str(source.number), pieces.piece_name(values))


def filtered_rows(batch: Batch, source: KeyedSource, key_task: KeyTask) -> pl.LazyFrame:
    """A scan of the source that keeps the rows of one key."""
    dtypes = source.compared_dtypes(batch.keys.schema)
    row = batch.keys[key_task.row]
    conditions = [
        expr.cast(dtypes[name]).eq_missing(pl.lit(row.get_column(name).cast(dtypes[name])).first())
        for name, expr in source.exprs.items()
    ]
    return source.frame.filter(conditions)


def release(batch: Batch, key_task: KeyTask) -> None:
    """Frees the rows that only this key has used."""
    for source in batch.plan.complete:
        token = batch.held[source.number][key_task.row] if source.number in batch.held else None
        if token is not None:
            memory_sources.release(token)


def settle_all(session: Session, run: Run, batch: Batch, secrets: set[str]) -> None:
    """Answers keys as they finish, and publishes or abandons as the agent decides, until every key was answered."""
    staged: dict[str, tuple[Finished, Staged]] = {}
    decided: dict[str, str] = {}
    open_tasks = {key_task.task.task_id for key_task in batch.key_tasks}
    while open_tasks:
        event = session.events.get()
        if isinstance(event, Decision):
            if event.task_id not in open_tasks:
                continue
            decided[event.task_id] = event.verb
            task_id = event.task_id
        else:
            task_id = event.key_task.task.task_id
            if isinstance(event.outcome, Answer):
                answer_key(session, run, batch, event, event.outcome)
                open_tasks.discard(task_id)
                continue
            staged[task_id] = (event, event.outcome)
            session.channel.send({"type": "staged", "taskId": task_id, "manifest": event.outcome.manifest})
        if task_id in staged and task_id in decided:
            finished, output = staged.pop(task_id)
            answer = settle(output, decided.pop(task_id), secrets, run.output.storage_options)
            answer_key(session, run, batch, finished, answer)
            open_tasks.discard(task_id)


def answer_key(session: Session, run: Run, batch: Batch, finished: Finished, answer: Answer) -> None:
    session.channel.send({**answer.message, "usage": finished.usage}, answer.head)
    # Without a destination no fence stands before "done": this attempt may have lost the key without knowing it, to one
    # that reads its rows now. They go with those of the other keys when the job has ended.
    if answer.message["type"] != "done" or run.output.destination is None:
        return
    for source in batch.plan.complete:
        folder = piece_folder(batch, source, finished.key_task)
        if folder is not None:
            # The key is answered, and what stays goes when the job has ended.
            with contextlib.suppress(Exception):
                pieces.remove_piece(folder)
