"""One round of the matrix: jobs stand in every step of their way at once, then one kind of process gets one signal."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from pathlib import Path

import frazil as pc
from cells import SIGNALS, STEPS, Cell
from checker import Checker, Reader, Violation, find_staged
from gates import Gates
from installation import LEASE_SECONDS, Installation
from processes import Process, wait_until
from workload import DRAINED, SECRET_IN_ENVIRONMENT, SECRET_IN_PLAN, WARM, WHOLE, Kind, Work, Workload, cold_context

THAW_SECONDS_MAX = 60.0
READ_EVERY_SECONDS = 0.05
# Destinations of jobs that have been checked are read more seldom: once in so many looks.
READ_CHECKED_EVERY = 20
LEFTOVER_SECONDS_MAX = 30.0
# A sweep that is due later than this was asked for, and has had no answer yet; sooner ones wait for an engine's end.
ASKED_SECONDS = 6.0
HASTEN_EVERY_SECONDS = 2.0
LOG_LINES = 30


class Chaos:
    """An installation with everything around it that breaks it and watches it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.gates = Gates(installation)
        self.workload = Workload(installation)
        self.violations: list[Violation] = []
        self.reader = Reader()
        self._cold = itertools.count(1)
        self._stopping = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        for look in itertools.count():
            if self._stopping.wait(READ_EVERY_SECONDS):
                return
            reads_all = look % READ_CHECKED_EVERY == 0
            works = [work for work in list(self.workload.works) if reads_all or not work.checked]
            self.violations += self.reader.read(works)

    def cold(self) -> pc.ComputeContext:
        return cold_context(next(self._cold))

    def check(self) -> list[Violation]:
        """Everything that is wrong so far, once all jobs have ended."""
        secrets = [*self.installation.secrets(), SECRET_IN_PLAN, SECRET_IN_ENVIRONMENT]
        with self.installation.connect() as connection:
            found = Checker(connection, LEASE_SECONDS).check(self.workload.works, secrets, self.installation.logs())
        for work in self.workload.works:
            work.checked = True
        return [*found, *self.violations, *self._leftovers()]

    def _leftovers(self) -> list[Violation]:
        """What is still there some time after the end: processes that nobody looks after, staged outputs."""
        started_at = hastened_at = time.monotonic()
        while True:
            if time.monotonic() - hastened_at > HASTEN_EVERY_SECONDS:
                self._hasten_sweeps()
                hastened_at = time.monotonic()
            strays = [
                Violation("R1", f"nobody looks after process {one.pid}: {one.command}") for one in self.find_strays()
            ]
            found = [*strays, *find_staged(self.workload.works)]
            if not found or time.monotonic() - started_at > LEFTOVER_SECONDS_MAX:
                return found
            time.sleep(READ_EVERY_SECONDS)

    def _hasten_sweeps(self) -> None:
        """Where no node was there to sweep, one would be asked half a minute later, or later still: now instead."""
        self.installation.rows(
            "UPDATE jobs SET sweep_due_at = now() WHERE sweep_due_at > now() + make_interval(secs => %s) RETURNING 1",
            ASKED_SECONDS,
        )

    def find_strays(self) -> list[Process]:
        """Engines whose runner is gone, runners whose node is gone."""
        processes = self.installation.processes()
        runners = {one.pid for one in processes if one.kind == "runner" and "end-orphans" not in one.command}
        open_nodes = self.installation.rows("SELECT id FROM nodes WHERE status <> 'terminated'")
        wanted = {row["id"] for row in open_nodes}
        strays = [one for one in processes if one.kind == "engine" and one.parent not in runners]
        return strays + [one for one in processes if one.kind == "runner" and node_of(one) not in wanted]

    def describe(self, names: list[str]) -> str:
        """What became of jobs so far, for a failure's message."""
        lines = []
        for row in self.installation.rows(
            """SELECT j.name, j.status AS job, t.id, t.kind, t.status, t.attempt, t.node_id,
                (SELECT string_agg(e.event, ' ' ORDER BY e.id) FROM events e WHERE e.task_id = t.id) AS events
              FROM jobs j LEFT JOIN tasks t ON t.job_id = j.id WHERE j.name = ANY(%s) ORDER BY j.id, t.ordinal""",
            names,
        ):
            lines.append(" ".join(str(value) for value in row.values()))
        for row in self.installation.rows(
            """SELECT pid, state, wait_event_type, wait_event, now() - xact_start AS since, pg_blocking_pids(pid) AS by,
                left(query, 100) AS query FROM pg_stat_activity WHERE application_name = 'frazil-control-plane'
                AND state <> 'idle'"""
        ):
            lines.append(" ".join(str(value) for value in row.values()))
        for log in self.installation.logs():
            lines += [f"--- {log}", *log.read_text(errors="replace").splitlines()[-LOG_LINES:]]
        return "\n".join(lines)

    def close(self) -> None:
        self._stopping.set()
        self._reading.join()
        self.gates.close()


def since(at: float) -> str:
    return f"{time.monotonic() - at:.1f} s"


def node_of(runner: Process) -> str | None:
    """The node whose agent this process is."""
    try:
        environment = Path(f"/proc/{runner.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    folders = [one.decode().split("=", 1)[1] for one in environment if one.startswith(b"FRAZIL_NODE_DIR=")]
    return Path(folders[0]).name if folders else None


class Round:
    """Holds jobs in steps, sends the signal, and lets everything go on."""

    def __init__(self, chaos: Chaos, process: str, signal_name: str) -> None:
        self.chaos = chaos
        self.process = process
        self.signal_name = signal_name
        self.works: list[Work] = []
        self.threads: list[threading.Thread] = []
        self.hit: set[Cell] = set()
        self._frozen_engines: list[Process] = []

    def run(self) -> set[Cell]:
        """Gives the cells that were hit: those whose step was held when the signal was sent."""
        try:
            for hold in (self._hold_most, self._hold_split, self._hold_finish):
                started_at = time.monotonic()
                steps = hold()
                held_at = time.monotonic()
                self._strike(steps)
                print(f"held {', '.join(steps)} in {held_at - started_at:.1f} s, struck in {since(held_at)}")
            held_at = time.monotonic()
            self._end()
            print(f"ended in {since(held_at)}")
        except BaseException:
            print(self.chaos.describe([work.name for work in self.works]))
            raise
        finally:
            self.chaos.gates.release_all()
            for work in self.works:
                if work.signals is not None:
                    work.go()
        return self.hit

    def _make(self, kind: Kind, label: str, frames: int = 1, python: bool = True):
        work, queries = self.chaos.workload.make(kind, f"{self.process}-{label}", frames=frames, python=python)
        self.works.append(work)
        return work, queries

    def _submit(self, kind: Kind, label: str, context: pc.ComputeContext, frames: int = 1, python: bool = True) -> Work:
        work, queries = self._make(kind, label, frames, python)
        self.threads.append(self.chaos.workload.submit_soon(work, queries, context))
        return work

    def _hold_most(self) -> list[str]:
        """Every step but those that share the recorder's transaction with another one."""
        gates, workload = self.chaos.gates, self.chaos.workload
        running = {label: self._submit("many", label, WARM) for label in ("run", "fence", "rename", "record", "cancel")}
        draining = self._submit("single", "drain", DRAINED)
        for work in (*running.values(), draining):
            workload.wait_started(work, 1)
            wait_until(f"{work.name} is accepted", lambda work=work: work.job_id)
        self._wait_for_lines([*running.values(), draining])
        for step, label in (("publish", "fence"), ("publish", "rename"), ("record", "record"), ("cancel", "cancel")):
            gates.arm(step, running[label].name)
        held = [("publish", running["fence"]), ("record", running["record"]), ("cancel", running["cancel"])]
        soon: tuple[tuple[str, Kind, pc.ComputeContext], ...] = (
            ("submit", "single", WARM),
            ("place", "single", self.chaos.cold()),
            ("provision", "kept", self.chaos.cold()),
            ("lease", "many", WARM),
        )
        for step, kind, context in soon:
            work, queries = self._make(kind, step, python=False)
            gates.arm(step, work.name)
            self.threads.append(workload.submit_soon(work, queries, context))
            held.append((step, work))
        for label in ("fence", "rename", "record"):
            running[label].go()
        self.threads.append(workload.cancel_soon(running["cancel"]))
        self._stand_before_rename(running["rename"])
        self._start_drain(draining)
        for step, work in held:
            gates.wait_held(step, work.name)
        return [step for step in STEPS if step not in ("split", "finish")]

    def _wait_for_lines(self, works: list[Work]) -> None:
        """Until what they have printed is kept: lines on their way would wait behind gates, and others with them."""
        names = [work.name for work in works]
        text = "SELECT count(DISTINCT j.name) AS n FROM logs l JOIN jobs j ON j.id = l.job_id WHERE j.name = ANY(%s)"
        wait_until(
            "the lines of those that run are kept",
            lambda: self.chaos.installation.rows(text, names)[0]["n"] == len(names),
        )

    def _stand_before_rename(self, work: Work) -> None:
        """The attempt is fenced, and its engine has not read the word to publish."""
        self.chaos.gates.wait_held("publish", work.name)
        pids = {pid for _, pid in work.started()}
        self._frozen_engines = [one for one in self.chaos.installation.processes("engine") if one.pid in pids]
        for engine in self._frozen_engines:
            engine.send(signal.SIGSTOP)
        self.chaos.gates.release("publish", work.name)
        wait_until(
            f"{work.name} is fenced",
            lambda: self.chaos.installation.rows(
                "SELECT 1 FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE j.name = %s AND t.status = 'publishing'",
                work.name,
            ),
        )

    def _start_drain(self, work: Work) -> None:
        nodes = self.chaos.installation.rows(
            "SELECT t.node_id FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE j.name = %s", work.name
        )
        node = nodes[0]["node_id"]
        for runner in self.chaos.installation.processes("runner"):
            if node_of(runner) == node:
                runner.send(signal.SIGTERM)
        logs = [home / "nodes" / node / "agent.log" for home in self.chaos.installation.homes]
        wait_until(f"{node} drains", lambda: any('"draining"' in log.read_text() for log in logs if log.exists()))

    def _hold_split(self) -> list[str]:
        return self._hold_one("split", "partitioned", WHOLE)

    def _hold_finish(self) -> list[str]:
        return self._hold_one("finish", "many", WARM)

    def _hold_one(self, step: str, kind: Kind, context: pc.ComputeContext) -> list[str]:
        work, queries = self._make(kind, step, python=False)
        self.chaos.gates.arm(step, work.name)
        self.threads.append(self.chaos.workload.submit_soon(work, queries, context))
        self.chaos.gates.wait_held(step, work.name)
        return [step]

    def _strike(self, steps: list[str]) -> None:
        """Sends the signal, and lets go what was held."""
        number = SIGNALS[self.signal_name]
        if self.process == "postgres" and number == signal.SIGTERM:
            # It waits for all clients to leave, so that nobody may stand still.
            self.chaos.gates.release_all()
            self.chaos.gates.close()
            self.chaos.installation.hang_up()
        # One that the round before has ended may just be on its way back.
        wait_until(f"there is a {self.process}", lambda: bool(self.chaos.installation.processes(self.process)))
        struck = self.chaos.installation.signal_all(self.process, number)
        assert struck, f"there is no {self.process}"
        if self.process == "postgres" and number != signal.SIGSTOP:
            # What is armed from now on is armed in the next one.
            self.chaos.gates.close()
            wait_until("Postgres has ended", lambda: not any(one.is_alive() for one in struck))
        self.hit |= {Cell(step, self.process, self.signal_name) for step in steps}
        if number == signal.SIGSTOP:
            self._thaw_late(struck)
        self.chaos.gates.release_all()
        for engine in self._frozen_engines:
            engine.send(signal.SIGCONT)
        self._frozen_engines = []
        for work in self.works:
            if work.signals is not None and not work.cancels:
                work.go()

    def _thaw_late(self, struck: list[Process]) -> None:
        """Keeps them frozen until every attempt that was live has lost its lease."""
        self.chaos.gates.release_all()
        frozen_at = time.monotonic()
        if self.process in ("plane", "postgres"):
            # Nobody takes a lease away meanwhile: by the clock of the database they run out.
            while time.monotonic() < frozen_at + LEASE_SECONDS * 1.2:
                time.sleep(READ_EVERY_SECONDS)
        elif self.process == "runner":
            live = self.chaos.installation.rows(
                """SELECT task_id, number FROM attempts
                  WHERE status = 'leased' AND leased_at < now() - interval '1 second'"""
            )
            wait_until("the leases of the frozen have run out", lambda: self._have_ended(live), THAW_SECONDS_MAX)
        for one in struck:
            one.send(signal.SIGCONT)

    def _have_ended(self, attempts: list[dict]) -> bool:
        rows = self.chaos.installation.rows(
            """SELECT 1 FROM attempts a JOIN unnest(%s::text[], %s::int[]) AS l(task_id, number)
              ON a.task_id = l.task_id AND a.number = l.number WHERE a.status = 'leased'""",
            [one["task_id"] for one in attempts],
            [one["number"] for one in attempts],
        )
        return not rows

    def _end(self) -> None:
        for thread in self.threads:
            thread.join(60)
        self.chaos.workload.wait_ended(self.works)
        for work in self.works:
            assert work.failure is None, f"{work.name}: {work.failure}"
