"""What a random run does to an installation. Each fault is a function of the installation and of a random source."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable

import psycopg
from installation import LEASE_SECONDS, REPOSITORY, Installation
from processes import Process

FROZEN_SECONDS_MAX = LEASE_SECONDS * 1.5
FLOOD_SECONDS_MAX = 60
FLOOD = REPOSITORY / "test" / "chaos" / "flood.ts"

Fault = Callable[[Installation, random.Random], bool]
"""Gives false when there was nothing to be hit."""


def choose(installation: Installation, kind: str, source: random.Random) -> Process | None:
    """One process of the kind, in an order that does not depend on chance outside of the seed."""
    found = sorted(installation.processes(kind), key=lambda one: one.pid)
    return source.choice(found) if found else None


def signalling(kind: str, number: signal.Signals) -> Fault:
    def fault(installation: Installation, source: random.Random) -> bool:
        victim = choose(installation, kind, source)
        return victim is not None and victim.send(number)

    return fault


def freezing(kind: str) -> Fault:
    """Frozen for a while: sometimes shorter than a lease, sometimes longer."""

    def fault(installation: Installation, source: random.Random) -> bool:
        seconds = source.uniform(0.1, FROZEN_SECONDS_MAX)
        victim = choose(installation, kind, source)
        if victim is None or not victim.send(signal.SIGSTOP):
            return False
        time.sleep(seconds)
        victim.send(signal.SIGCONT)
        return True

    return fault


DROP_TRIES_MAX = 5


def lose_queue(installation: Installation, source: random.Random) -> bool:
    """Everything that the queue holds is gone, its schema included."""
    del source
    if installation.redis_port is not None:
        installation.redis_cli("FLUSHALL")
        return True
    for _ in range(DROP_TRIES_MAX):
        try:
            with installation.connect() as connection:
                connection.execute("DROP SCHEMA IF EXISTS bullmq CASCADE")
            return True
        except psycopg.errors.DeadlockDetected:
            # Dropping takes its locks in an order of its own, and Postgres may choose it as the one that gives way.
            continue
        except psycopg.Error:
            return False
    return False


def flood_queue(installation: Installation, source: random.Random) -> bool:
    """Messages for every step and many ids, twice and in another order: of what is due, of what is over, of nothing."""
    found = installation.rows("SELECT id FROM jobs UNION ALL SELECT id FROM clusters ORDER BY id DESC LIMIT 20")
    ids = [row["id"] for row in found] + ["job_that_never_was"]
    messages = [f"{step} {identity}" for step in STEPS for identity in ids] * 2
    source.shuffle(messages)
    command = ["node", str(FLOOD), installation.queue_url]
    done = subprocess.run(
        command, input="\n".join(messages[:200]), text=True, timeout=FLOOD_SECONDS_MAX, capture_output=True
    )
    return done.returncode == 0


def cut_connections(installation: Installation, source: random.Random) -> bool:
    """Some of the connections of the control planes end, in whatever they are doing."""
    share = source.random()
    try:
        with installation.connect() as connection:
            connection.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE application_name LIKE 'frazil%%' AND random() < %s""",
                [share],
            )
    except psycopg.Error:
        return False
    return True


STEPS = ("place", "provision", "supervise", "stop_idle", "stop", "expire", "finish", "dispatch")
FAULTS: dict[str, Fault] = {
    **{f"kill {kind}": signalling(kind, signal.SIGKILL) for kind in ("engine", "runner", "plane", "postgres", "redis")},
    **{f"term {kind}": signalling(kind, signal.SIGTERM) for kind in ("engine", "runner", "plane", "redis")},
    # An orderly end of Postgres that does not wait for its clients.
    "int postgres": signalling("postgres", signal.SIGINT),
    **{f"freeze {kind}": freezing(kind) for kind in ("engine", "runner", "plane", "postgres", "redis")},
    "lose queue": lose_queue,
    "flood queue": flood_queue,
    "cut connections": cut_connections,
}
# How often each kind comes, beside 2 for the others: what stops everything is rarer than what stops a part.
WEIGHTS = {
    "kill engine": 6,
    "kill runner": 4,
    "freeze runner": 3,
    "kill postgres": 1,
    "int postgres": 1,
    "freeze postgres": 1,
}
