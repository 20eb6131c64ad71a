"""The matrix of (step of the way of a job, process, signal), and which of its cells make no sense."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

STEPS = (
    "submit",
    "place",
    "provision",
    "split",
    "lease",
    "run",
    "publish: fence",
    "publish: rename",
    "record",
    "finish",
    "cancel",
    "drain",
)
PROCESSES = ("engine", "runner", "plane", "postgres", "redis")
# SIGSTOP is followed by SIGCONT once the leases of that moment have run out.
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "freeze": signal.SIGSTOP}


class Cell(NamedTuple):
    """One thing that can happen."""

    step: str
    process: str
    signal: str


NOT_YET = "the job has no cluster yet, so there is no such process"
IMPOSSIBLE: dict[tuple[str, str], str] = {
    ("place", "engine"): NOT_YET,
    ("place", "runner"): NOT_YET,
    ("provision", "engine"): "the node has not joined yet, and starts its engines later",
}

BY_LONG_RUNS = "it takes no lease away by itself; random runs freeze it, for longer and shorter than a lease"
LEFT_TO_LONG_RUNS: dict[tuple[str, str], str] = {
    (process, "freeze"): BY_LONG_RUNS for process in ("engine", "plane", "postgres", "redis")
}
# `CHAOS_EVERY_ROUND=1` runs these too.
ROUNDS = [
    (process, name)
    for process in PROCESSES
    for name in SIGNALS
    if os.environ.get("CHAOS_EVERY_ROUND") or (process, name) not in LEFT_TO_LONG_RUNS
]


def all_cells() -> set[Cell]:
    return {Cell(step, process, name) for step in STEPS for process in PROCESSES for name in SIGNALS}


def cells_left_out() -> set[Cell]:
    """Those that make no sense, and those of rounds that are left to long runs. Each has its reason above."""
    return {
        cell
        for cell in all_cells()
        if (cell.step, cell.process) in IMPOSSIBLE or (cell.process, cell.signal) in LEFT_TO_LONG_RUNS
    }
