"""A random workload under random faults, as one seed says: which faults, when, and what is submitted."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from checker import Violation
from faults import FAULTS, WEIGHTS
from rounds import Chaos
from workload import Work

IN_FLIGHT = 6
PAUSE_SECONDS_MAX = 1.5
FAULTS_PER_EPOCH = 25
SUBMITTERS = 3
SETTLE_SECONDS_MAX = 240.0


@dataclass
class Summary:
    """What a run did and what it found."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    refused: int = 0
    tasks: int = 0
    attempts: int = 0
    reads: int = 0
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)

    def text(self) -> str:
        found: dict[str, Any] = {**vars(self), "violations": [str(one) for one in self.violations]}
        found["retries"] = self.attempts - self.tasks
        found["faultsInAll"] = sum(self.faults.values())
        return json.dumps(found, indent=2)


class RandomRun:
    """Epochs of faults; between two of them everything settles and is checked."""

    def __init__(self, chaos: Chaos, seed: int) -> None:
        self.chaos = chaos
        self.summary = Summary(seed)
        # Apart, so that what is submitted does not depend on how fast the faults came.
        self._fault_source = random.Random(f"faults {seed}")
        self._work_source = random.Random(f"work {seed}")
        self._lock = threading.Lock()
        self._breaking = threading.Event()

    def run(self, faults: int) -> Summary:
        started_at = time.monotonic()
        while sum(self.summary.faults.values()) < faults and not self.summary.violations:
            left = faults - sum(self.summary.faults.values())
            self._epoch(min(FAULTS_PER_EPOCH, left))
            self.summary.seconds = round(time.monotonic() - started_at, 1)
            print(
                f"{self.summary.seconds:7.1f} s  {sum(self.summary.faults.values())} faults, {self.summary.jobs} jobs, "
                f"{self.summary.attempts - self.summary.tasks} retries, {len(self.summary.violations)} violations",
                flush=True,
            )
        return self.summary

    def _epoch(self, faults: int) -> None:
        works: list[Work] = []
        self._breaking.set()
        submitters = [threading.Thread(target=self._submit, args=(works,), daemon=True) for _ in range(SUBMITTERS)]
        for thread in submitters:
            thread.start()
        for _ in range(faults):
            self._break_something()
        self._breaking.clear()
        for thread in submitters:
            thread.join(SETTLE_SECONDS_MAX)
        self._settle(works)

    def _break_something(self) -> None:
        source = self._fault_source
        time.sleep(source.uniform(0, PAUSE_SECONDS_MAX))
        kind = source.choices(list(FAULTS), [WEIGHTS.get(name, 2) for name in FAULTS])[0]
        hit = FAULTS[kind](self.chaos.installation, source)
        (self.summary.faults if hit else self.summary.missed)[kind] += 1

    def _submit(self, works: list[Work]) -> None:
        """Keeps some jobs in flight while things break."""
        workload = self.chaos.workload
        while self._breaking.is_set():
            with self._lock:
                work, queries, context = workload.random_work(self._work_source)
                works.append(work)
            workload.submit(work, queries, context)
            if work.job_id is not None and len(works) > IN_FLIGHT:
                # The answer is not looked at: the checker asks Postgres.
                self._wait_while_breaking(works)

    def _wait_while_breaking(self, works: list[Work]) -> None:
        names = [work.name for work in works]
        while self._breaking.is_set():
            found = self.chaos.installation.rows(
                "SELECT count(*) AS n FROM jobs WHERE name = ANY(%s) AND finished_at IS NULL", names
            )
            if found[0]["n"] < IN_FLIGHT:
                return
            time.sleep(0.1)

    def _settle(self, works: list[Work]) -> None:
        """Nothing breaks any more: everything must end, and be right."""
        summary = self.summary
        try:
            self.chaos.workload.wait_ended(works, SETTLE_SECONDS_MAX)
        except AssertionError as error:
            summary.violations.append(Violation("R1", str(error)))
            print(self.chaos.describe([work.name for work in works]))
        summary.violations += self.chaos.check()
        summary.jobs += sum(work.job_id is not None for work in works)
        summary.refused += sum(work.job_id is None for work in works)
        self.chaos.workload.forget(works)
        counted = self.chaos.installation.rows(
            "SELECT (SELECT count(*) FROM tasks) AS tasks, (SELECT count(*) FROM attempts) AS attempts"
        )[0]
        summary.tasks, summary.attempts, summary.reads = counted["tasks"], counted["attempts"], self.chaos.reader.reads
