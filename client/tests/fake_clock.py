"""A clock that a test moves."""

from __future__ import annotations


class Clock:
    """Stands in for the module `time`: a sleep is over at once."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
