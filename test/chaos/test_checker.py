"""The checker can fail: a history by hand in which all is well, and for each rule one in which something is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from checker import Checker, Reader, find_staged
from gates import install_triggers
from installation import REPOSITORY
from psycopg.rows import dict_row
from rounds import Chaos
from workload import Work

LEASE_SECONDS = 2.0
SECRET = "a-secret-of-the-installation"
MIGRATIONS = REPOSITORY / "migrations" / "history"
# One job with a frame that was lost once, and one without a destination.
HISTORY = """
INSERT INTO workspaces (id, name, default_context, results_location) VALUES ('ws', 'w', '{}', '/r');
INSERT INTO plans (id, workspace_id, hash, kind, sealed, size_bytes) VALUES ('plan', 'ws', 'h', 'dsl', 's', 1);
INSERT INTO jobs (id, workspace_id, user_name, name, mode, status, labels, spec, shape, polars, python, priority,
    attempts_max, tasks_total)
  VALUES ('job', 'ws', 'u', 'work', 'many', 'queued', '{}', '{}', '{}', 'p', 'p', 1, 4, 2);
INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, plan_id, attempts_max)
  VALUES ('t0', 'job', 'ws', 'query', 'queued', 0, 0, 'plan', 4),
    ('t1', 'job', 'ws', 'query', 'queued', 1, 1, 'plan', 4);
INSERT INTO events (workspace_id, job_id, event, data) VALUES ('ws', 'job', 'submit', '{"tasks": 2}');
"""
LEASE = """
UPDATE tasks SET status = 'leased', attempt = attempt + 1, node_id = 'node', lease_expires_at = now() + interval '2 s'
  WHERE id = '{task}';
INSERT INTO attempts (task_id, number, job_id, workspace_id, node_id, status)
  SELECT id, attempt, job_id, workspace_id, 'node', 'leased' FROM tasks WHERE id = '{task}';
INSERT INTO events (workspace_id, job_id, task_id, event, data)
  SELECT 'ws', 'job', id, 'lease', jsonb_build_object('attempt', attempt) FROM tasks WHERE id = '{task}';
"""
END = """
UPDATE tasks SET status = '{status}', node_id = NULL, lease_expires_at = NULL WHERE id = '{task}';
UPDATE attempts SET status = '{attempt_status}' WHERE task_id = '{task}'
  AND number = (SELECT attempt FROM tasks WHERE id = '{task}');
INSERT INTO events (workspace_id, job_id, task_id, event, data)
  SELECT 'ws', 'job', id, '{event}', jsonb_build_object('attempt', attempt) FROM tasks WHERE id = '{task}';
"""
RESULT = """
INSERT INTO results (task_id, job_id, workspace_id, ordinal, attempt, locations, format, columns, rows, warnings)
  SELECT id, job_id, 'ws', ordinal, attempt, '["{location}"]', 'parquet', '[]', 2, '[]' FROM tasks WHERE id = '{task}';
"""
FINISH = """
UPDATE jobs SET status = 'succeeded', tasks_succeeded = 2, finished_at = now() WHERE id = 'job';
INSERT INTO events (workspace_id, job_id, event) VALUES ('ws', 'job', 'succeed');
"""


@dataclass
class Scene:
    """The history, its files, and what was submitted."""

    connection: psycopg.Connection[dict[str, Any]]
    work: Work
    log: Path

    def sql(self, text: str) -> None:
        self.connection.execute(text.encode())

    def file(self, place: str) -> Path:
        assert self.work.destination is not None
        return Path(self.work.destination) / place / "part-0.parquet"

    def found(self) -> list[str]:
        checker = Checker(self.connection, LEASE_SECONDS)
        found = [*checker.check([self.work], [SECRET], [self.log]), *find_staged([self.work])]
        return sorted({violation.rule for violation in found})


@pytest.fixture(scope="module")
def template(on_postgres: Chaos) -> str:
    """A database that the migrations alone have made. Gives the address of its server."""
    server = on_postgres.installation.database_url.rsplit("/", 1)[0]
    with on_postgres.installation.connect() as admin:
        admin.execute("CREATE DATABASE template_of_planted")
    with psycopg.Connection[dict[str, Any]].connect(f"{server}/template_of_planted", autocommit=True) as connection:
        for migration in sorted(MIGRATIONS.glob("*/migration.sql")):
            connection.execute(migration.read_bytes())
        install_triggers(connection)
    return server


@pytest.fixture
def scene(template: str, tmp_path: Path) -> Iterator[Scene]:
    with psycopg.Connection[dict[str, Any]].connect(f"{template}/frazil", autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS planted WITH (FORCE)")
        admin.execute("CREATE DATABASE planted TEMPLATE template_of_planted")
    address = f"{template}/planted"
    with psycopg.Connection[dict[str, Any]].connect(address, autocommit=True, row_factory=dict_row) as connection:
        work = Work("work", "many", {"frame=0": [1, 4], "frame=1": [9, 16]}, str(tmp_path / "dst"), job_id="job")
        work.tries_max = 4
        log = tmp_path / "some.log"
        log.write_text("nothing to see\n")
        made = Scene(connection, work, log)
        tell_history(made)
        yield made


def tell_history(scene: Scene) -> None:
    scene.sql(HISTORY)
    scene.sql(LEASE.format(task="t0"))
    scene.sql(END.format(task="t0", status="queued", attempt_status="lost", event="requeue"))
    for task, place in (("t0", "frame=0"), ("t1", "frame=1")):
        scene.sql(LEASE.format(task=task))
        file = scene.file(place)
        file.parent.mkdir(parents=True)
        pl.DataFrame({"v": scene.work.expected[place]}).write_parquet(file)
        scene.sql(END.format(task=task, status="succeeded", attempt_status="succeeded", event="finish"))
        scene.sql(RESULT.format(task=task, location=file))
    scene.sql(FINISH)


def test_a_history_in_which_all_is_well_has_no_violation(scene: Scene) -> None:
    assert scene.found() == []


def plant_file(place: str, values: list[int]) -> Callable[[Scene], None]:
    def plant(scene: Scene) -> None:
        scene.file(place).parent.mkdir(exist_ok=True)
        pl.DataFrame({"v": values}).write_parquet(scene.file(place))

    return plant


def plant_sql(text: str) -> Callable[[Scene], None]:
    return lambda scene: scene.sql(text)


def plant_staged(scene: Scene) -> None:
    folder = Path(str(scene.work.destination)).parent / ".frazil-staging" / "job" / "t0-1"
    folder.mkdir(parents=True)


def plant_half_file(scene: Scene) -> None:
    file = scene.file("frame=0")
    file.write_bytes(file.read_bytes()[:-20])


def plant_duplicate(scene: Scene) -> None:
    shutil.copy(scene.file("frame=0"), scene.file("frame=0").with_name("part-1.parquet"))


def plant_draft(scene: Scene) -> None:
    scene.file("frame=0").with_name(".part-0.parquet.tmp").touch()


def plant_lost_file(scene: Scene) -> None:
    scene.file("frame=1").unlink()


def plant_secret_in_log(scene: Scene) -> None:
    scene.log.write_text(f'{{"msg": "started with {SECRET}"}}\n')


def plant_other_job_id(scene: Scene) -> None:
    scene.work = replace(scene.work, job_id="job_that_was_accepted_and_lost")


def plant_lost_cancel(scene: Scene) -> None:
    scene.work = replace(scene.work, cancels=True, cancelled=True)


SECOND_JOB = """
INSERT INTO jobs (id, workspace_id, user_name, name, mode, status, labels, spec, shape, polars, python, priority,
    attempts_max)
  VALUES ('again', 'ws', 'u', 'work', 'many', 'succeeded', '{}', '{}', '{}', 'p', 'p', 1, 4);
INSERT INTO events (workspace_id, job_id, event) VALUES ('ws', 'again', 'succeed');"""
LONG_LEASE = "UPDATE tasks SET lease_expires_at = now() + interval '1 h' WHERE id = 't0'"
EVENT = (
    "INSERT INTO events (workspace_id, job_id, task_id, event, data) VALUES ('ws', 'job', {task}, '{event}', {data})"
)

PLANTED: dict[str, tuple[str, Callable[[Scene], None]]] = {
    "an accepted job is not there": ("R1", plant_other_job_id),
    "a job has not ended": ("R1", plant_sql("UPDATE jobs SET status = 'running' WHERE id = 'job'")),
    "a job ended otherwise than it may": ("R1", plant_sql("UPDATE jobs SET status = 'failed' WHERE id = 'job'")),
    "a confirmed cancel came to nothing": ("R1", plant_lost_cancel),
    "a job ended with a task uncounted": ("R1", plant_sql("UPDATE jobs SET tasks_succeeded = 1 WHERE id = 'job'")),
    "a task outlived its job": ("R1", plant_sql("UPDATE tasks SET status = 'running' WHERE id = 't0'")),
    "a task is left on a node": ("R1", plant_sql("UPDATE tasks SET node_id = 'node' WHERE id = 't0'")),
    "a result is missing": ("R2", plant_sql("DELETE FROM results WHERE task_id = 't0'")),
    "a result is of a stale attempt": ("R2", plant_sql("UPDATE results SET attempt = 1 WHERE task_id = 't0'")),
    "a result claims other rows": ("R2", plant_sql("UPDATE results SET rows = 3 WHERE task_id = 't0'")),
    "a result points to nothing": (
        "R2",
        plant_sql("""UPDATE results SET locations = '["/no"]' WHERE task_id = 't0'"""),
    ),
    "a stale attempt succeeded too": ("R2", plant_sql("UPDATE attempts SET status = 'succeeded' WHERE number = 1")),
    "attempts have a gap": ("R2", plant_sql("DELETE FROM attempts WHERE task_id = 't0' AND number = 1")),
    "an attempt is left open": ("R2", plant_sql("UPDATE attempts SET status = 'leased' WHERE status = 'lost'")),
    "an event names a stale attempt": (
        "R2",
        plant_sql("""UPDATE events SET data = '{"attempt": 1}' WHERE event = 'finish' AND task_id = 't0'"""),
    ),
    "a file holds other data": ("R2", plant_file("frame=0", [7])),
    "a file is half-written": ("R2", plant_half_file),
    "a file is there twice": ("R2", plant_duplicate),
    "a draft is visible": ("R2", plant_draft),
    "a file is gone": ("R2", plant_lost_file),
    "a partition is there that nobody asked for": ("R2", plant_file("frame=2", [1])),
    "a staged output is left behind": ("R2", plant_staged),
    "one submission made two jobs": ("R7", plant_sql(SECOND_JOB)),
    "a task is tried for ever": (
        "R8",
        plant_sql(
            """UPDATE tasks SET attempt = 12 WHERE id = 't1'; UPDATE results SET attempt = 12 WHERE task_id = 't1';
            UPDATE attempts SET number = 12 WHERE task_id = 't1';
            INSERT INTO attempts (task_id, number, job_id, workspace_id, node_id, status)
              SELECT 't1', n, 'job', 'ws', 'node', 'lost' FROM generate_series(1, 11) n;
            DELETE FROM events WHERE task_id = 't1'"""
        ),
    ),
    "a job ended twice": ("R9", plant_sql(EVENT.format(task="NULL", event="succeed", data="NULL"))),
    "something happened to an ended job": ("R9", plant_sql(EVENT.format(task="NULL", event="place", data="NULL"))),
    "a task went on after its end": ("R9", plant_sql(EVENT.format(task="'t1'", event="requeue", data="NULL"))),
    "a final status was left": (
        "R9",
        plant_sql("UPDATE jobs SET status = 'running'; UPDATE jobs SET status = 'succeeded'"),
    ),
    "a lease is longer than leases are": ("R10", plant_sql(f"{LONG_LEASE}; UPDATE tasks SET lease_expires_at = NULL")),
    "a secret stands in a log": ("R11", plant_secret_in_log),
    "a secret stands in an event": (
        "R11",
        plant_sql(f"""UPDATE events SET data = '{{"tasks": "{SECRET}"}}' WHERE event = 'submit'"""),
    ),
    "a secret stands in an error": (
        "R11",
        plant_sql(f"""UPDATE attempts SET error = '{{"message": "{SECRET}"}}' WHERE status = 'lost'"""),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_finds_that(scene: Scene, name: str) -> None:
    rule, plant = PLANTED[name]
    plant(scene)
    assert rule in scene.found()


def test_a_reader_finds_a_half_written_file_while_it_is_there(scene: Scene) -> None:
    reader = Reader()
    assert reader.read([scene.work]) == []
    assert reader.reads == 2
    plant_half_file(scene)
    assert [violation.rule for violation in reader.read([scene.work])] == ["R2"]
