"""Holds a control plane inside the very statement of a step: triggers of this harness wait there for an advisory lock.

A trigger takes a shared lock that is named by the step and the job. Nobody waits for it, unless `arm` has taken it
exclusively: then the statement stands still, its transaction open, until `release`. A Postgres that dies forgets all
locks, so that nothing stays armed. Beside the gates, the triggers keep a record of every move of a status.
"""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from installation import Installation
from processes import wait_until

LOCK_CLASS = 770_000
HELD_SECONDS_MAX = 40.0

# Step -> table, moment, and the name of the job whose step it is.
GATES = {
    "submit": ("jobs", "INSERT", "true", "NEW.name"),
    "place": ("jobs", "UPDATE", "OLD.cluster_id IS NULL AND NEW.cluster_id IS NOT NULL", "NEW.name"),
    "order": ("nodes", "INSERT", "true", "chaos.name_of_cluster(NEW.cluster_id)"),
    "provision": (
        "nodes",
        "UPDATE",
        "OLD.handle IS NULL AND NEW.handle IS NOT NULL",
        "chaos.name_of_cluster(NEW.cluster_id)",
    ),
    "split": ("tasks", "INSERT", "NEW.kind = 'key'", "chaos.name_of_job(NEW.job_id)"),
    "lease": ("tasks", "UPDATE", "OLD.status = 'queued' AND NEW.status = 'leased'", "chaos.name_of_job(NEW.job_id)"),
    "publish": (
        "tasks",
        "UPDATE",
        "OLD.status <> 'publishing' AND NEW.status = 'publishing'",
        "chaos.name_of_job(NEW.job_id)",
    ),
    "record": ("results", "INSERT", "true", "chaos.name_of_job(NEW.job_id)"),
    "finish": (
        "jobs",
        "UPDATE",
        "OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL",
        "NEW.name",
    ),
    "cancel": ("jobs", "UPDATE", "OLD.cancel_requested_at IS NULL AND NEW.cancel_requested_at IS NOT NULL", "NEW.name"),
}
STEP_NUMBERS = {step: LOCK_CLASS + number for number, step in enumerate(GATES)}

FUNCTIONS = """
CREATE SCHEMA IF NOT EXISTS chaos;
CREATE TABLE IF NOT EXISTS chaos.moves (
  id bigserial PRIMARY KEY, entity text NOT NULL, row_id text NOT NULL, was text, became text NOT NULL,
  lease_seconds float8, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE OR REPLACE FUNCTION chaos.name_of_job(wanted text) RETURNS text LANGUAGE sql AS
  'SELECT name FROM public.jobs WHERE id = wanted';
CREATE OR REPLACE FUNCTION chaos.name_of_cluster(wanted text) RETURNS text LANGUAGE sql AS
  'SELECT name FROM public.jobs WHERE cluster_id = wanted ORDER BY id LIMIT 1';
CREATE OR REPLACE FUNCTION chaos.note_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO chaos.moves (entity, row_id, was, became) VALUES (TG_TABLE_NAME, NEW.id, OLD.status, NEW.status);
  RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION chaos.note_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO chaos.moves (entity, row_id, became, lease_seconds)
    VALUES ('lease', NEW.id, NEW.status, extract(epoch FROM NEW.lease_expires_at - now()));
  RETURN NULL;
END $$;
"""


def trigger_sql(step: str) -> str:
    table, event, condition, name = GATES[step]
    return f"""
CREATE OR REPLACE FUNCTION chaos.gate_{step}() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
DECLARE held text := {name};
BEGIN
  IF held IS NOT NULL THEN PERFORM pg_advisory_xact_lock_shared({STEP_NUMBERS[step]}, hashtext(held)); END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER chaos_gate_{step} BEFORE {event} ON public.{table} FOR EACH ROW WHEN ({condition})
  EXECUTE FUNCTION chaos.gate_{step}();"""


def install_triggers(connection: psycopg.Connection[Any]) -> None:
    """Idempotent."""
    connection.execute(FUNCTIONS.encode())
    for step in GATES:
        connection.execute(trigger_sql(step).encode())
    for table in ("jobs", "tasks", "clusters", "nodes"):
        connection.execute(
            f"""CREATE OR REPLACE TRIGGER chaos_moves AFTER UPDATE OF status ON public.{table} FOR EACH ROW
              WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION chaos.note_move()""".encode()
        )
    connection.execute(
        """CREATE OR REPLACE TRIGGER chaos_leases AFTER UPDATE OF lease_expires_at ON public.tasks FOR EACH ROW
          WHEN (NEW.lease_expires_at IS NOT NULL) EXECUTE FUNCTION chaos.note_lease()"""
    )


class Gates:
    """Arms gates with a connection of its own, which holds the locks."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._connection = installation.connect()
        install_triggers(self._connection)

    def arm(self, step: str, name: str) -> None:
        """From now on the step stands still for the job of this name."""
        self._execute("SELECT pg_advisory_lock(%s, hashtext(%s))", STEP_NUMBERS[step], name)

    def wait_held(self, step: str, name: str) -> None:
        """Until a statement waits there."""
        wait_until(f"{step} of {name} is held", lambda: self.is_held(step, name), HELD_SECONDS_MAX)

    def is_held(self, step: str, name: str) -> bool:
        found = self._execute(
            """SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = %s
              AND objid::bigint = (hashtext(%s)::bigint & 4294967295)""",
            STEP_NUMBERS[step],
            name,
        )
        return len(found) > 0

    def release_all(self) -> None:
        """Whatever stood still goes on. A Postgres that died has released all by itself."""
        with contextlib.suppress(psycopg.OperationalError):
            if not self._connection.closed:
                self._connection.execute("SELECT pg_advisory_unlock_all()")

    def release(self, step: str, name: str) -> None:
        self._execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", STEP_NUMBERS[step], name)

    def close(self) -> None:
        self._connection.close()

    def _execute(self, text: str, *values: object) -> list[Any]:
        if self._connection.closed:
            self._connection = self._installation.connect()
        try:
            return self._connection.execute(text.encode(), values).fetchall()
        except psycopg.OperationalError:
            self._connection.close()
            self._connection = self._installation.connect()
            return self._connection.execute(text.encode(), values).fetchall()
