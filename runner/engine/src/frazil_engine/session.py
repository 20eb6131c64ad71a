"""What one engine process shares between its runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from frazil_engine.logs import Logs
from frazil_engine.protocol import Channel, Run
from frazil_engine.restoring import Surroundings, enter, restore


@dataclass(frozen=True)
class Decision:
    """The agent's answer to `staged`: "publish" or "abandon"."""

    task_id: str
    verb: str


Event = Any


@dataclass
class Session:
    """The one of this process."""

    channel: Channel
    logs: Logs
    home: str
    surroundings: Surroundings
    # Engines that have opened Python may have been changed by it.
    has_run_python: bool = False
    # What the run that is under way waits for: decisions on staged outputs, and outputs that its workers have staged or
    # failed to.
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    # Tasks of the run that are not begun yet.
    waiting: set[str] = field(default_factory=set)
    # What was announced last of the plans of the run.
    said_python: bool | None = None
    # A run has seeded the generators, and none without a seed came after it.
    is_seeded: bool = False
    # The user's directory, while there are runs in it.
    directory: str | None = None

    def await_turns(self, runs: list[Run]) -> None:
        """Called by the reader of messages, before the runs are begun."""
        self.said_python = None
        # A decision that came after its task was answered concerns nobody. One that comes right behind these runs does,
        # whenever they are begun.
        self.forget_events()
        self.waiting = {run.tasks[0].task_id for run in runs[1:]}

    def decide(self, decision: Decision) -> None:
        """Called by the reader of messages."""
        if decision.verb == "abandon":
            self.waiting.discard(decision.task_id)
        self.events.put(decision)

    def announce_python(self, has_python: bool) -> None:
        self.has_run_python = self.has_run_python or has_python
        if has_python != self.said_python:
            self.said_python = has_python
            self.channel.send({"type": "opened", "python": has_python})

    def forget_events(self) -> None:
        while not self.events.empty():
            self.events.get()

    def forget_seeds(self, seed: int | None) -> None:
        """Before a run with this seed: one without any must not draw what an earlier one's seed gives, be it the user
        code's own.
        """
        if seed is None and (self.is_seeded or self.has_run_python):
            unset_seeds()
        self.is_seeded = seed is not None

    def put_back(self) -> None:
        """After a run. Those that came with it find themselves in the directory where it was."""
        if not self.has_run_python:
            return
        restore(self.surroundings)
        if self.directory is not None:
            # User code may have removed it.
            with contextlib.suppress(OSError):
                go_into(self.directory)

    def progress(self, task_id: str, phase: str) -> None:
        self.channel.send({"type": "progress", "taskId": task_id, "phase": phase})


# Reading the CPU time of a process asks each of its threads, which takes longer than a short query.
CPU_READ_SECONDS = 0.005


@dataclass
class CpuTime:
    """CPU time of this process. Between two readings one thread is taken to be busy."""

    seconds: float = 0.0
    read_at: float = float("-inf")

    def now(self, wall: float) -> float:
        """At this time of `time.perf_counter`."""
        if wall - self.read_at >= CPU_READ_SECONDS:
            # Time never goes backwards, even where the last estimate was too high.
            self.seconds = max(self.seconds, time.process_time())
            self.read_at = wall
        return self.seconds + (wall - self.read_at)


cpu_time = CpuTime()


class Clock:
    """Wall and CPU time since it was started."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = cpu_time.now(self._wall)

    def usage(self, share: float = 1.0) -> dict[str, float]:
        """`share` is this task's part of the process, where several run at once."""
        wall = time.perf_counter()
        return {
            "wallMs": round((wall - self._wall) * 1000, 3),
            "cpuMs": round(max(0.0, cpu_time.now(wall) - self._cpu) * 1000 * share, 3),
        }


@contextlib.contextmanager
def working_directory(session: Session, cwd: str | None) -> Iterator[None]:
    """Enters the directory for the time of a run, where there is one. Its modules can be imported, after everything
    that is installed; what was imported from it is forgotten afterwards, so that the next run sees its files as they
    are then.
    """
    if cwd is None or not os.path.isdir(cwd):
        yield
        return
    known = set(sys.modules)
    session.directory = cwd
    go_into(cwd)
    try:
        yield
    finally:
        session.directory = None
        enter(session.home)
        if cwd in sys.path:
            sys.path.remove(cwd)
        forget_modules(set(sys.modules) - known, cwd)


def go_into(directory: str) -> None:
    os.chdir(directory)
    sys.path.append(directory)


def forget_modules(names: set[str], folder: str) -> None:
    prefix = os.path.join(os.path.realpath(folder), "")
    for name in names:
        # Our own modules may lie below that directory too, and are imported when they are first needed.
        if name.partition(".")[0] == __package__:
            continue
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and os.path.realpath(file).startswith(prefix) and "site-packages" not in file:
            del sys.modules[name]


def set_seeds(seed: int | None, has_python: bool) -> None:
    """Seeds every generator that user code commonly draws from."""
    if seed is None:
        return
    random.seed(seed)
    pl.set_random_seed(seed)
    # What is wrong with a NumPy that the query may not even use is not for the seed to say.
    with contextlib.suppress(Exception):
        if has_python:
            # The functions of a plan are loaded later, and import it then: it would begin unseeded.
            importlib.import_module("numpy")
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed % 2**32)


def unset_seeds() -> None:
    """Seeds the same generators with what nobody can foresee."""
    random.seed()
    pl.set_random_seed(int.from_bytes(os.urandom(8), "little"))
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
