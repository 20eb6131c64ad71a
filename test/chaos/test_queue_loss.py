"""The queue is a hint: losing, repeating and reordering it while jobs run loses nothing and does nothing twice."""

from __future__ import annotations

import random

import frazil as pc
import pytest
from faults import flood_queue, lose_queue
from rounds import Chaos
from workload import WARM, WHOLE, Kind, Work

REBUILT_SECONDS_MAX = 60.0


@pytest.fixture(params=["on_redis", "on_postgres"])
def chaos(request: pytest.FixtureRequest) -> Chaos:
    return request.getfixturevalue(request.param)


def submit_some(chaos: Chaos) -> tuple[list[Work], Work]:
    """Jobs that need the queue (their clusters are not there yet), jobs that wait on a node, and one of each kind."""
    workload = chaos.workload
    waiting, queries = workload.make("many", "waiting")
    works = [waiting]
    workload.submit(waiting, queries, WARM)
    workload.wait_started(waiting, 2)
    more: tuple[tuple[Kind, pc.ComputeContext], ...] = (
        ("single", chaos.cold()),
        ("partitioned", WHOLE),
        ("kept", chaos.cold()),
        ("many", WARM),
    )
    for kind, context in more:
        work, queries = workload.make(kind, "queued", python=False)
        workload.submit(work, queries, context)
        works.append(work)
    return works, waiting


def test_a_queue_that_is_lost_mid_run_is_rebuilt_within_a_minute(chaos: Chaos) -> None:
    works, waiting = submit_some(chaos)
    assert lose_queue(chaos.installation, random.Random(0))
    waiting.go()
    chaos.workload.wait_ended(works, REBUILT_SECONDS_MAX)
    assert chaos.check() == []


def test_repeated_and_reordered_messages_do_nothing(chaos: Chaos) -> None:
    works, waiting = submit_some(chaos)
    for seed in range(3):
        assert flood_queue(chaos.installation, random.Random(seed))
    waiting.go()
    chaos.workload.wait_ended(works, REBUILT_SECONDS_MAX)
    assert chaos.check() == []
