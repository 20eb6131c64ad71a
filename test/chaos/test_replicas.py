"""Two control planes on one database, behind one address: either may be killed under load, and work goes on."""

from __future__ import annotations

import signal

import pytest
from processes import wait_until
from random_run import RandomRun
from rounds import Chaos
from workload import WARM, Work

FRAMES = 30
JOBS = 2
SEED = 20_26
FAULTS = 8


def submit_load(chaos: Chaos) -> list[Work]:
    works = []
    for number in range(JOBS):
        work, queries = chaos.workload.make("many", f"load-{number}", frames=FRAMES, python=number == 0)
        if work.signals is not None:
            work.go()
        chaos.workload.submit(work, queries, WARM)
        works.append(work)
    return works


@pytest.mark.parametrize(("which", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)])
def test_either_of_two_control_planes_may_die_under_load(
    on_two_planes: Chaos, which: int, number: signal.Signals
) -> None:
    chaos = on_two_planes
    both = wait_until("both control planes run", lambda: planes(chaos) if len(planes(chaos)) == 2 else None)
    works = submit_load(chaos)
    wait_until("some tasks are done", lambda: count_done(chaos, works) > FRAMES / 2)
    assert both[which].send(number)
    chaos.workload.wait_ended(works)
    assert [work.failure for work in works] == [None] * JOBS
    assert chaos.check() == []


def test_any_faults_in_any_order_lose_nothing(on_two_planes: Chaos) -> None:
    summary = RandomRun(on_two_planes, SEED).run(FAULTS)
    assert summary.violations == []
    assert sum(summary.faults.values()) == FAULTS


def planes(chaos: Chaos):
    return sorted(chaos.installation.processes("plane"), key=lambda one: one.pid)


def count_done(chaos: Chaos, works: list[Work]) -> int:
    names = [work.name for work in works]
    return chaos.installation.rows(
        "SELECT coalesce(sum(tasks_succeeded), 0)::int AS n FROM jobs WHERE name = ANY(%s)", names
    )[0]["n"]
