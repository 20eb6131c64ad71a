"""What remote code printed, here."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from frazil._wire import PAGE_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from frazil._client import Client
    from frazil._wire import Job, WireLogLine

PRINTED_LINES_MAX = 1_000


@dataclass(frozen=True)
class LogLine:
    """A line that remote code printed.

    Attributes
    ----------
    text
        The line, without its end.
    stream
        ``stdout``, ``stderr``, or ``system`` for what Frazil has to say.
    at
        When it was printed.
    task_id, attempt
        Which task printed it, and in which of its attempts.
    """

    text: str
    stream: Literal["stdout", "stderr", "system"]
    at: datetime
    task_id: str | None
    attempt: int

    def __str__(self) -> str:
        return self.text


def log_line(wire: WireLogLine) -> LogLine:
    at = datetime.fromisoformat(wire["at"].replace("Z", "+00:00"))
    return LogLine(wire["text"].rstrip("\r\n"), wire["stream"], at, wire["taskId"], wire["attempt"])


def logs_wanted(asked: bool | None) -> bool:
    return os.environ.get("FRAZIL_LOGS") != "0" if asked is None else asked


class LogPrinter:
    """Prints a job's log lines as they come, each once. Makes no request while the job has none."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._cursor: str | None = None
        self._seen = 0
        self._printed = 0
        self._full = False

    def print_new(self, job: Job, before_print: Callable[[], None], *, within_s: float | None) -> None:
        """Prints what is new; `before_print` is called first, if there is anything.

        Raises `OutOfTime` when a page of lines takes longer than `within_s`.
        """
        if self._full or job["logLines"] <= self._seen:
            return
        while not self._full:
            limit = min(PAGE_SIZE_MAX, PRINTED_LINES_MAX - self._printed + 1)
            lines, cursor = self._client.logs_page(self._job_id, cursor=self._cursor, limit=limit, within_s=within_s)
            if lines:
                before_print()
            for line in lines:
                self._print(line)
            self._seen += len(lines)
            self._cursor = cursor or self._cursor
            if len(lines) < limit:
                return

    def _print(self, line: WireLogLine) -> None:
        if self._printed >= PRINTED_LINES_MAX:
            if not self._full:
                print(f"... more than {PRINTED_LINES_MAX} lines were printed: see .logs()", file=sys.stderr)
            self._full = True
            return
        self._printed += 1
        # Looked up at each print, so that redirections count.
        print(line["text"].rstrip("\r\n"), file=sys.stdout if line["stream"] == "stdout" else sys.stderr)
