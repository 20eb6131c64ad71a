"""A clock that jumps by an hour, on any process, loses and repeats no work: leases know the database's clock only."""

from __future__ import annotations

import email.utils
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import frazil as pc
import pytest
from clocks import LIBRARY, Clock, ClockedPostgres
from installation import Installation, Setup
from processes import wait_until
from rounds import Chaos, node_of
from workload import WHOLE, Work

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the library that moves clocks is built for Linux x86-64")

HOUR = 3_600
JUMPS = (HOUR, 0)

SETTLE_SECONDS_MAX = 120.0
# Enough for the whole time that functions may wait: the time of their lines says what the runner's clock says.
PRINTS_MAX = 1_000


@dataclass
class Clocked:
    """An installation in which each kind of process has a clock of its own."""

    chaos: Chaos
    clocks: dict[str, Clock]
    engine_environment: dict[str, str]

    def context(self) -> pc.ComputeContext:
        return pc.ComputeContext(cpus=4, memory=2.5, env=self.engine_environment)


@pytest.fixture(scope="module")
def clocked(cache: Path) -> Iterator[Clocked]:
    postgres = ClockedPostgres(cache)
    plane, engine = Clock(postgres.root, "plane"), Clock(postgres.root, "engine")
    # A runner inherits the variables of the control plane that starts it; by a relative path each reads its own file.
    relative = {**plane.environment, "FAKETIME_TIMESTAMP_FILE": plane.file.name}
    setup = Setup(queue="postgres", dev_environment={"DATABASE_URL": postgres.url, **relative}, folder=postgres.root)
    installation = Installation(setup, cache)
    running = Chaos(installation)
    running.workload.prints_max = PRINTS_MAX
    yield Clocked(running, {"plane": plane, "engine": engine, "postgres": postgres.clock}, engine.environment)
    running.close()
    left = installation.stop()
    postgres.stop()
    assert left == []


def start_work(clocked: Clocked) -> tuple[list[Work], list[Work]]:
    """Work that is on a node, and work that is not started yet."""
    workload = clocked.chaos.workload
    waiting, queries = workload.make("many", "clock", frames=2)
    workload.submit(waiting, queries, clocked.context())
    workload.wait_started(waiting, 2)
    queued, queries = workload.make("partitioned", "clock")
    workload.submit(queued, queries, WHOLE)
    return [waiting], [waiting, queued]


def jump(clocked: Clocked, process: str, seconds: int) -> None:
    if process != "runner":
        clocked.clocks[process].set(seconds)
        return
    for runner in clocked.chaos.installation.processes("runner"):
        folder = clocked.chaos.installation.homes[0] / "nodes" / str(node_of(runner))
        if folder.exists():
            (folder / clocked.clocks["plane"].file.name).write_text(f"{seconds:+d}\n")


@pytest.mark.parametrize("process", ["engine", "runner", "plane", "postgres"])
def test_a_jump_of_an_hour_forth_and_back_loses_nothing(clocked: Clocked, process: str) -> None:
    chaos = clocked.chaos
    for seconds in JUMPS:
        waiting, works = start_work(clocked)
        jump(clocked, process, seconds)
        expected = wait_until(
            f"the clock of {process} has jumped",
            lambda expected=seconds: abs(time_told(chaos, process) - time.time() - expected) < HOUR / 2,
        )
        assert expected
        for work in waiting:
            work.go()
        chaos.workload.wait_ended(works, SETTLE_SECONDS_MAX)
    assert chaos.check() == []


def time_told(chaos: Chaos, process: str) -> float:
    """What time it is, as a process of this kind said last."""
    installation = chaos.installation
    if process == "postgres":
        return installation.rows("SELECT extract(epoch FROM clock_timestamp())::float8 AS at")[0]["at"]
    if process == "plane":
        with urllib.request.urlopen(f"{installation.address}/healthz", timeout=10) as answer:
            return email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    if process == "runner":
        rows = installation.rows("SELECT extract(epoch FROM at)::float8 AS at FROM logs ORDER BY id DESC LIMIT 1")
        return rows[0]["at"] if rows else 0
    told = installation.root.glob("signals/clock-*/*.*")
    return float(max(told, key=lambda path: path.stat().st_mtime).read_text() or 0)
