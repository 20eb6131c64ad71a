"""Finds the processes of one installation, by the folder that all of them name, and signals them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

PROCESSES = ("engine", "runner", "plane", "postgres", "redis")
POLL_SECONDS = 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One process, with the time of its start: ids come back."""

    pid: int
    parent: int
    started: str
    kind: str
    command: str

    def is_alive(self) -> bool:
        state = read_state(self.pid)
        return state is not None and state[0] != "Z" and state[2] == self.started

    def send(self, number: signal.Signals) -> bool:
        """False when it has ended meanwhile."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def read_state(pid: int) -> tuple[str, int, str] | None:
    """State, parent and start of a process, from /proc/<pid>/stat; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return fields[0], int(fields[1]), fields[19]


def find_processes(root: Path) -> list[Process]:
    """Every living process that names this folder in its command or environment, but for this one."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            named = str(root).encode() in command or str(root).encode() in Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        state = read_state(int(name))
        if not named or state is None or state[0] == "Z":
            continue
        words = command.decode(errors="replace").split("\0")
        found.append(Process(int(name), state[1], state[2], kind_of(words), " ".join(words).strip()))
    return found


def kind_of(words: list[str]) -> str:
    """What a process is in an installation, by its command."""
    entry = next((word for word in words[1:] if not word.startswith("-")), "")
    program = os.path.basename(words[0])
    if entry.endswith("control-plane.mjs"):
        return "plane"
    if entry.endswith("runner.mjs"):
        return "runner"
    if "frazil_engine" in words:
        return "engine"
    return "postgres" if program == "postgres" and "-D" in words else "other"


def wait_until(what: str, look: Callable[[], T | None], seconds: float = 60.0) -> T:
    """Looks again and again until there is something; fails, saying what was waited for, after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(POLL_SECONDS)
