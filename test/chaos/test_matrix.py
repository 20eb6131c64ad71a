"""Every cell of (step of the way of a job, process, signal), once. A round hits all steps of one process and signal."""

import pytest
from cells import ROUNDS, Cell, all_cells, cells_left_out
from rounds import Chaos, Round

HIT: set[Cell] = set()


@pytest.mark.parametrize(("process", "signal_name"), ROUNDS)
def test_every_step_survives(on_redis: Chaos, process: str, signal_name: str) -> None:
    HIT.update(Round(on_redis, process, signal_name).run())
    assert on_redis.check() == []


def test_every_cell_that_makes_sense_was_hit() -> None:
    assert all_cells() - HIT <= cells_left_out()
