"""Waits for a job to end, showing its progress and its prints."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from frazil._http import LATE_SECONDS_MAX, OutOfTime
from frazil._logs import LogPrinter, logs_wanted
from frazil._progress import SHOWN_AFTER_SECONDS, Progress, open_display
from frazil._wire import FINAL_STATUSES
from frazil.errors import AwaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from frazil._client import Client
    from frazil._wire import Job

T = TypeVar("T")

WAIT_SECONDS = 20.0
"""One long poll, where nothing has to be shown in between."""
WAIT_LOGS_SECONDS = 5.0
"""The same, where remote prints are to show within a while."""
WAIT_SHOWN_SECONDS = 1.0
"""The same, where somebody watches the progress."""
SHOWN_INTERVAL_SECONDS = 0.2
"""A job with many tasks changes all the time: at most this often is it asked for."""
WAIT_ASYNC_SECONDS = 5.0
"""The same in a thread, which the interpreter waits for at its exit."""
ASYNC_WAITS_MAX = 64
"""Jobs that are waited for at the same moment by async callers; more take turns."""


def first_wait_seconds(logs: bool | None) -> int:
    """How long a blocking submission lets the server hold back the answer."""
    if open_display() is not None:
        return round(SHOWN_AFTER_SECONDS)
    return round(WAIT_LOGS_SECONDS if logs_wanted(logs) else WAIT_SECONDS)


class Watch:
    """One wait for one job's end, in steps of some seconds."""

    def __init__(
        self,
        client: Client,
        job: Job,
        *,
        timeout_s: float | None,
        logs: bool | None,
        printer: LogPrinter,
        fired_at: float,
    ) -> None:
        self.job = job
        self._client = client
        self._printer = printer if logs_wanted(logs) else None
        self._progress = Progress(open_display(), fired_at)
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._shown_from = fired_at + SHOWN_AFTER_SECONDS

    def ended(self) -> bool:
        return self.job["status"] in FINAL_STATUSES

    def step(self, longest_s: float = WAIT_SECONDS) -> None:
        """Waits for a change or a while, and shows what is new."""
        shown = self._progress.display is not None
        wait_s = WAIT_SHOWN_SECONDS if shown else WAIT_LOGS_SECONDS if self._printer else WAIT_SECONDS
        wait_s = min(wait_s, longest_s)
        asked_at = time.monotonic()
        left_s = self._left()
        if left_s is not None:
            if left_s <= 0:
                raise self._timed_out()
            wait_s = min(wait_s, left_s)
        # Asked for each change only once somebody sees it.
        revision = self.job["revision"] if shown and asked_at >= self._shown_from else None
        try:
            self.job = self._client.wait(self.job["id"], timeout_s=wait_s, revision=revision, within_s=self._within())
        except OutOfTime as late:
            raise self._timed_out() from late.__cause__
        self.show()
        pause_s = SHOWN_INTERVAL_SECONDS - (time.monotonic() - asked_at)
        if revision is not None and not self.ended() and pause_s > 0:
            time.sleep(pause_s)

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _within(self) -> float | None:
        """How long an answer may take that the server may hold back until the deadline."""
        left_s = self._left()
        return None if left_s is None else max(0.0, left_s) + LATE_SECONDS_MAX

    def _timed_out(self) -> AwaitTimeout:
        return AwaitTimeout(
            f"{self.job['id']} was still {self.job['status']} after {self._timeout_s:g} s; it goes on",
            hint=f'wait for it again, or later: frazil.job("{self.job["id"]}").await_result()',
        )

    def show(self) -> None:
        if self._printer is not None:
            try:
                self._printer.print_new(self.job, self._progress.clear, within_s=self._within())
            except OutOfTime as late:
                # A result that is there is not kept back for what was printed.
                if not self.ended():
                    raise self._timed_out() from late.__cause__
        if not self.ended():
            self._progress.update(self.job)

    def close(self) -> None:
        self._progress.clear()

    def run(self) -> Job:
        """Until the end."""
        try:
            self.show()
            while not self.ended():
                self.step()
        except KeyboardInterrupt:
            self.close()
            print(
                f'{self.job["id"]} goes on. frazil.job("{self.job["id"]}") is its handle: .await_result(), .cancel()',
                file=sys.stderr,
            )
            raise
        finally:
            self.close()
        return self.job

    async def run_async(self) -> Job:
        """Until the end, without blocking the event loop."""
        try:
            await in_thread(self.show)
            while not self.ended():
                await in_thread(self.step, WAIT_ASYNC_SECONDS)
        finally:
            self.close()
        return self.job


_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None


def _forget_threads() -> None:
    """In the child of a fork: the threads did not come along, and another one may have held the lock."""
    global _lock, _executor
    _lock, _executor = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Runs a blocking function beside the event loop, in threads of our own: asyncio's few are for the user."""
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(ASYNC_WAITS_MAX, thread_name_prefix="frazil")
        executor = _executor
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
