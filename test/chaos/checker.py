"""Looks whether what must always hold has held. It reads rows of Postgres, the destinations and the list of what was
submitted, and knows nothing else of the system: it imports nothing of it, and recounts everything by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import psycopg

PUBLISH_TRIES_EXTRA = 5
LEASE_SLACK_SECONDS = 0.01
FINAL_JOB = frozenset({"succeeded", "failed", "cancelled"})
FINAL = {
    "jobs": FINAL_JOB,
    "tasks": FINAL_JOB,
    "clusters": frozenset({"terminated"}),
    "nodes": frozenset({"terminated"}),
}
JOB_ENDS = frozenset({"succeed", "fail", "cancel"})
# What may follow what, for one task: worked out from the description of the lifecycle, not from its code.
TASK_EVENTS = {
    None: {"lease"},
    "lease": {"start", "publish", "finish", "fail", "requeue"},
    "start": {"publish", "finish", "fail", "requeue"},
    # The fence is asked for again when its answer got lost.
    "publish": {"publish", "finish", "fail", "requeue"},
    "requeue": {"lease", "fail"},
    "finish": set(),
    "fail": set(),
}
# Text that users and operators see, where no secret may stand.
TEXT_COLUMNS = {
    "events": "data::text",
    "jobs": "concat_ws(' ', name, phase, labels::text, spec::text, error::text, shape::text)",
    "tasks": "concat_ws(' ', phase, error::text, manifest::text, split_state::text)",
    "attempts": "error::text",
    "clusters": "concat_ws(' ', name, shape::text, error::text)",
    "nodes": "concat_ws(' ', handle::text, hostname)",
    "logs": "text",
    "results": "concat_ws(' ', locations::text, columns::text, warnings::text)",
}


@dataclass(frozen=True)
class Violation:
    """An invariant that did not hold, by its number in the architecture, and how."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


class Submitted(Protocol):
    """What the checker must know of a submission."""

    name: str
    kind: Any
    expected: dict[str, list[int]]
    destination: str | None
    old: list[int] | None
    tries_max: int
    job_id: str | None
    cancels: bool
    cancelled: bool


Rows = list[dict[str, Any]]


class Checker:
    """Checks everything that was submitted so far. Call it when all jobs should have ended."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]], lease_seconds: float) -> None:
        self._connection = connection
        self._lease_seconds = lease_seconds
        self._found: list[Violation] = []

    def check(self, submitted: Sequence[Submitted], secrets: Sequence[str], logs: Iterable[Path]) -> list[Violation]:
        """Every violation that shows now."""
        self._found = []
        for work in submitted:
            self._check_work(work)
        self._check_attempts()
        self._check_leases()
        self._check_moves()
        self._check_secrets(secrets, logs)
        return self._found

    def _rows(self, text: str, *values: Any) -> Rows:
        return self._connection.execute(text.encode(), values).fetchall()

    def _note(self, rule: str, what: str) -> None:
        self._found.append(Violation(rule, what))

    def _check_work(self, work: Submitted) -> None:
        jobs = self._rows("SELECT * FROM jobs WHERE name = %s", work.name)
        if len(jobs) > 1:
            self._note("R7", f"{work.name} was submitted once, and there are {len(jobs)} jobs")
        if work.job_id is not None and [job["id"] for job in jobs] != [work.job_id]:
            self._note("R1", f"{work.name} was accepted as {work.job_id}, and there is {[job['id'] for job in jobs]}")
        for job in jobs:
            self._check_end(work, job)
            self._check_results(work, job)
            self._check_job_events(job)
            self._check_task_events(job)
        if not jobs or jobs[0]["status"] == "succeeded":
            self._check_destination(work, visible=bool(jobs))
        elif work.destination is not None:
            self._check_partial_destination(work)

    def _check_end(self, work: Submitted, job: dict[str, Any]) -> None:
        status = job["status"]
        if status not in FINAL_JOB:
            self._note("R1", f"{work.name} has not ended: it is {status}")
            return
        allowed = {"cancelled"} if work.cancelled else {"succeeded", "cancelled"} if work.cancels else {"succeeded"}
        if status not in allowed:
            self._note("R1", f"{work.name} is {status}, which it may not be: {job['error']}")
        counted = job["tasks_succeeded"] + job["tasks_failed"] + job["tasks_cancelled"]
        if counted != job["tasks_total"] or job["splits_open"] != 0:
            self._note("R1", f"{work.name} has ended with {counted} of {job['tasks_total']} tasks")

    def _check_results(self, work: Submitted, job: dict[str, Any]) -> None:
        """One committed result per task, of the one attempt that succeeded."""
        tasks = self._rows("SELECT * FROM tasks WHERE job_id = %s ORDER BY ordinal", job["id"])
        results = {row["task_id"]: row for row in self._rows("SELECT * FROM results WHERE job_id = %s", job["id"])}
        for task in tasks:
            if task["status"] not in FINAL_JOB:
                self._note("R1", f"task {task['id']} of {work.name} is {task['status']} after the end of its job")
            result = results.pop(task["id"], None)
            wants_result = task["status"] == "succeeded" and task["kind"] != "split"
            if wants_result != (result is not None):
                self._note("R2", f"task {task['id']} of {work.name} is {task['status']}, and its result is {result}")
            if result is not None and result["attempt"] != task["attempt"]:
                self._note("R2", f"the result of {task['id']} is of attempt {result['attempt']} of {task['attempt']}")
            if result is not None:
                self._check_result_files(work, task, result)
            if task["attempt"] > work.tries_max + PUBLISH_TRIES_EXTRA:
                self._note("R8", f"task {task['id']} of {work.name} was tried {task['attempt']} times")
        for task_id in results:
            self._note("R2", f"a result of {work.name} belongs to no task of it: {task_id}")
        yielding = [task for task in tasks if task["kind"] != "split" and task["status"] == "succeeded"]
        if job["status"] == "succeeded" and len(yielding) != len(work.expected):
            self._note("R2", f"{work.name} has {len(yielding)} results instead of {len(work.expected)}")

    def _check_result_files(self, work: Submitted, task: dict[str, Any], result: dict[str, Any]) -> None:
        """What a result says of itself, and what lies where it points to."""
        place = place_of(task)
        expected = work.expected.get(place)
        if expected is None:
            self._note("R2", f"{work.name} has a result for {place!r}, which nobody asked for")
            return
        if result["rows"] != len(expected):
            self._note("R2", f"{place!r} of {work.name} claims {result['rows']} rows instead of {len(expected)}")
        for location in result["locations"]:
            found = read_values(Path(location))
            if found != expected:
                self._note("R2", f"{location} of {work.name} holds {found} instead of {expected}")

    def _check_destination(self, work: Submitted, *, visible: bool) -> None:
        """Each partition holds one file with the right content; nothing else stands in or beside the destination."""
        if work.destination is None:
            return
        root = Path(work.destination)
        found = visible_files(root)
        for place, expected in work.expected.items():
            here = found.pop(place, [])
            wanted = work.old if not visible else expected
            if wanted is None and not here:
                continue
            values = [read_values(file) for file in here]
            if values != [wanted]:
                self._note("R2", f"{root}/{place} holds {values} in {[file.name for file in here]}, not {wanted}")
        for place, files in found.items():
            self._note("R2", f"{root}/{place} holds {[file.name for file in files]}, which nobody asked for")

    def _check_partial_destination(self, work: Submitted) -> None:
        """Of a job that was cancelled: whole results of some partitions, and nothing else."""
        assert work.destination is not None
        for place, files in visible_files(Path(work.destination)).items():
            values = [read_values(file) for file in files]
            if values not in ([work.expected.get(place)], [work.old]):
                self._note("R2", f"{work.destination}/{place} of a job that did not succeed holds {values}")

    def _check_job_events(self, job: dict[str, Any]) -> None:
        """A job ends once, and nothing happens to it after."""
        # A cancel of tasks carries their number; the end of the job carries nothing.
        events = self._rows(
            "SELECT event FROM events WHERE job_id = %s AND task_id IS NULL AND data IS NULL ORDER BY id", job["id"]
        )
        ends = [row["event"] for row in events if row["event"] in JOB_ENDS]
        if job["status"] in FINAL_JOB and len(ends) != 1:
            self._note("R9", f"{job['name']} has ended {len(ends)} times: {ends}")
        if ends and events[-1]["event"] not in JOB_ENDS:
            self._note("R9", f"{events[-1]['event']} happened to {job['name']} after its end")

    def _check_task_events(self, job: dict[str, Any]) -> None:
        """Each task goes the way of a task, with attempts 1, 2, 3, ... and one end."""
        rows = self._rows(
            "SELECT task_id, event, data FROM events WHERE job_id = %s AND task_id IS NOT NULL ORDER BY id", job["id"]
        )
        last: dict[str, str] = {}
        leases: dict[str, int] = {}
        for row in rows:
            task, event = row["task_id"], row["event"]
            before = last.get(task)
            if event not in TASK_EVENTS.get(before, set()) and not (event == "fail" and before is None):
                self._note("R9", f"{event} of {task} came after {before}")
            last[task] = event
            attempt = (row["data"] or {}).get("attempt")
            if event == "lease":
                leases[task] = leases.get(task, 0) + 1
            if attempt is not None and attempt != leases.get(task):
                self._note("R2", f"{event} of {task} names attempt {attempt}, and {leases.get(task)} is the live one")

    def _check_attempts(self) -> None:
        """One succeeded attempt per succeeded task, numbers without gaps, none left open."""
        rows = self._rows(
            """SELECT t.id, t.status, t.attempt, array_agg(a.number ORDER BY a.number) AS numbers,
                array_agg(a.status ORDER BY a.number) AS statuses
              FROM tasks t LEFT JOIN attempts a ON a.task_id = t.id GROUP BY t.id"""
        )
        for row in rows:
            numbers = [number for number in row["numbers"] if number is not None]
            if numbers != list(range(1, row["attempt"] + 1)):
                self._note("R2", f"task {row['id']} is at attempt {row['attempt']}, and there are {numbers}")
            won = [n for n, status in zip(row["numbers"], row["statuses"], strict=True) if status == "succeeded"]
            wanted = [row["attempt"]] if row["status"] == "succeeded" else []
            if won != wanted:
                self._note("R2", f"task {row['id']} is {row['status']}, and attempts {won} succeeded")
            if row["status"] in FINAL_JOB and "leased" in row["statuses"]:
                self._note("R2", f"task {row['id']} is {row['status']}, and its attempts are {row['statuses']}")

    def _check_leases(self) -> None:
        """No task is left on a node, and leases were given for their time by the clock of the database."""
        left = self._rows(
            """SELECT t.id, t.status, t.node_id FROM tasks t JOIN jobs j ON j.id = t.job_id
              WHERE (t.node_id IS NOT NULL OR t.lease_expires_at IS NOT NULL) AND j.finished_at IS NOT NULL"""
        )
        for row in left:
            self._note("R1", f"task {row['id']} is {row['status']} and still leased to {row['node_id']}")
        wrong = self._rows(
            "SELECT row_id, lease_seconds FROM chaos.moves WHERE entity = 'lease' AND abs(lease_seconds - %s) > %s",
            self._lease_seconds,
            LEASE_SLACK_SECONDS,
        )
        for row in wrong:
            self._note("R10", f"task {row['row_id']} got a lease of {row['lease_seconds']} s by the database's clock")

    def _check_moves(self) -> None:
        """As the triggers of the harness saw it: nothing ever leaves a final status, and no move is lost."""
        rows = self._rows("SELECT entity, row_id, was, became FROM chaos.moves WHERE entity <> 'lease' ORDER BY id")
        by_row: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            by_row.setdefault((row["entity"], row["row_id"]), []).append(row)
            if row["was"] in FINAL[row["entity"]]:
                self._note("R9", f"{row['entity']} {row['row_id']} went from {row['was']} to {row['became']}")
        for (entity, row_id), moves in by_row.items():
            for first, second in pairwise(moves):
                if first["became"] != second["was"]:
                    self._note("R9", f"{entity} {row_id} became {first['became']}, and then left {second['was']}")

    def _check_secrets(self, secrets: Sequence[str], logs: Iterable[Path]) -> None:
        for table, text in TEXT_COLUMNS.items():
            for secret in secrets:
                found = self._rows(f"SELECT count(*) AS n FROM {table} WHERE strpos({text}, %s) > 0", secret)
                if found[0]["n"] > 0:
                    self._note("R11", f"{found[0]['n']} rows of {table} hold a secret ({secret[:4]}...)")
        for path in logs:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            for secret in secrets:
                if secret.encode() in content:
                    self._note("R11", f"{path} holds a secret ({secret[:4]}...)")


def find_staged(submitted: Sequence[Submitted]) -> list[Violation]:
    """Outputs that lie staged beside the destinations. What a dead attempt left goes soon after its job's end."""
    folders = {Path(work.destination).parent / ".frazil-staging" for work in submitted if work.destination is not None}
    # Unlike a glob, a walk passes over what is removed under its feet.
    left = [Path(at, name) for folder in folders for at, inside, files in os.walk(folder) for name in inside + files]
    return [Violation("R2", f"{path} was left behind") for path in left]


def place_of(task: dict[str, Any]) -> str:
    """Where in a destination a task's result belongs."""
    parts = [] if task["frame"] is None else [f"frame={task['frame']}"]
    parts += [task["key_path"]] if task["key_path"] else []
    return "/".join(parts)


def read_values(file: Path) -> list[int] | str:
    """Column v of a file in order, or why it can't be read."""
    try:
        frame = pl.read_ipc(file) if file.suffix == ".arrow" else pl.read_parquet(file)
        return sorted(frame["v"].to_list())
    except Exception as error:  # Whatever is wrong with a file, it is a finding.
        return f"{type(error).__name__}: {error}"[:200]


def visible_files(root: Path) -> dict[str, list[Path]]:
    """Everything that a reader of the directory sees, by partition. Hidden and half-named files count."""
    found: dict[str, list[Path]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            place = os.path.relpath(folder, root)
            found.setdefault("" if place == "." else place, []).append(Path(folder) / name)
    return found


class Reader:
    """A reader of the destinations beside everything else: whatever it sees must be whole and right at that moment."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int, int]] = set()
        self.reads = 0

    def read(self, submitted: Sequence[Submitted]) -> list[Violation]:
        """Looks once at every destination. A file is read once."""
        found = []
        for work in submitted:
            if work.destination is None:
                continue
            for place, files in visible_files(Path(work.destination)).items():
                found += [wrong for file in files if (wrong := self._read_file(work, place, file)) is not None]
        return found

    def _read_file(self, work: Submitted, place: str, file: Path) -> Violation | None:
        try:
            stat = file.stat()
        except OSError:
            return None
        key = (str(file), stat.st_ino, stat.st_mtime_ns)
        if key in self._seen:
            return None
        self._seen.add(key)
        self.reads += 1
        values = read_values(file)
        # It was replaced between the two looks.
        if isinstance(values, str) and not same_file(file, stat):
            return None
        if values in (work.expected.get(place), work.old):
            return None
        return Violation("R2", f"a reader of {file} saw {values}, not {work.expected.get(place)}")


def same_file(file: Path, stat: os.stat_result) -> bool:
    try:
        now = file.stat()
    except OSError:
        return False
    return (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
