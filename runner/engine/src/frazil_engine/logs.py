"""What the user's code prints and warns of, attributed to the task that it was running for.

Lines are attributed by the thread that writes them (`attribute_to`); threads that belong to nobody, such as those of
Polars, write for the task that the process runs alone, and for none while several run at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from frazil_engine.limits import (
    LOG_BYTES_PER_ATTEMPT_MAX,
    LOG_LINE_CHARS_MAX,
    WARNING_CATEGORY_CHARS_MAX,
    WARNING_MESSAGE_CHARS_MAX,
    WARNINGS_MAX,
)
from frazil_engine.protocol import Channel

CAPPED = f"(the log of this attempt is longer than {LOG_BYTES_PER_ATTEMPT_MAX:,} bytes; the rest was dropped)"


@dataclass
class TaskLog:
    """What one attempt has written so far."""

    task_id: str | None
    bytes_left: int = LOG_BYTES_PER_ATTEMPT_MAX
    # Stream name to the beginning of a line whose end was not written yet.
    partial: dict[str, str] = field(default_factory=dict)
    warnings: dict[tuple[str, str], None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Logs:
    """The logs of the attempts that run now."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._of_thread = threading.local()
        self._running: list[TaskLog] = []
        self._nobody = TaskLog(None)

    @contextlib.contextmanager
    def attribute_to(self, task_id: str) -> Iterator[TaskLog]:
        """Lines written by this thread belong to the task until the end of the block; then its unfinished lines are
        sent.
        """
        log = TaskLog(task_id)
        self._of_thread.log = log
        self._running.append(log)
        try:
            yield log
        finally:
            self.flush(log)
            self._of_thread.log = None
            self._running.remove(log)
            self.flush(self._nobody)

    def current(self) -> TaskLog:
        log = getattr(self._of_thread, "log", None)
        if log is not None:
            return log
        return self._running[0] if len(self._running) == 1 else self._nobody

    def write(self, stream: str, text: str) -> None:
        log = self.current()
        with log.lock:
            # What can't be sent any more is not even looked at: user code may print gigabytes.
            if log.bytes_left <= 0:
                return
            before = log.partial.get(stream, "")
            # Room for all that may still be sent, and for seeing that there was more.
            *lines, rest = (before + text[: log.bytes_left + 1]).split("\n")
            whole = max(0, (len(rest) - 1) // LOG_LINE_CHARS_MAX * LOG_LINE_CHARS_MAX)
            lines += [rest[start : start + LOG_LINE_CHARS_MAX] for start in range(0, whole, LOG_LINE_CHARS_MAX)]
            log.partial[stream] = rest[whole:]
            for line in lines:
                self._send(log, stream, line)

    def flush(self, log: TaskLog) -> None:
        """Sends the lines that have no end yet. Called before the task is answered."""
        with log.lock:
            for stream, text in log.partial.items():
                if text:
                    self._send(log, stream, text)
            log.partial.clear()

    def _send(self, log: TaskLog, stream: str, line: str) -> None:
        for start in range(0, max(len(line), 1), LOG_LINE_CHARS_MAX):
            text = line[start : start + LOG_LINE_CHARS_MAX]
            if log.bytes_left <= 0:
                return
            log.bytes_left -= len(text.encode("utf-8", "replace")) + 1
            message = {"type": "log", "taskId": log.task_id, "stream": stream}
            self._channel.send({**message, "text": text if log.bytes_left > 0 else CAPPED})

    def warn(self, message: Warning | str, category: type[Warning], *_place: Any) -> None:
        """Stands in for `warnings.showwarning`."""
        log = self.current()
        entry = (category.__name__[:WARNING_CATEGORY_CHARS_MAX], str(message)[:WARNING_MESSAGE_CHARS_MAX])
        with log.lock:
            if len(log.warnings) < WARNINGS_MAX:
                log.warnings[entry] = None


def list_warnings(log: TaskLog) -> list[dict[str, str]]:
    """The warnings of an attempt, each once, in the order in which they came."""
    return [{"category": category, "message": message} for category, message in log.warnings]


class LogStream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`. In a forked child, which has no channel, it writes to the descriptor
    itself.
    """

    def __init__(self, logs: Logs, channel: Channel, name: str, fd: int) -> None:
        self._logs = logs
        self._channel = channel
        self._name = name
        self._fd = fd
        self.buffer = LogBuffer(self)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._channel.is_open:
            self._logs.write(self._name, text)
        else:
            os.write(self._fd, text.encode("utf-8", "replace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False


class LogBuffer(io.RawIOBase):
    """The binary side of a LogStream, for code that writes to `sys.stdout.buffer`."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._stream.write(content.decode("utf-8", "replace"))
        return len(content)

    def writable(self) -> bool:
        return True


def capture(channel: Channel) -> Logs:
    """Puts the streams and the warnings of this process into log frames from here on."""
    logs = Logs(channel)
    sys.stdout = LogStream(logs, channel, "stdout", 1)
    sys.stderr = LogStream(logs, channel, "stderr", 2)
    warnings.showwarning = logs.warn
    set_warning_filters()
    return logs


def set_warning_filters() -> None:
    """Python's own defaults, but every time instead of once per place: an engine runs many queries in one process."""
    warnings.resetwarnings()
    warnings.simplefilter("always")
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("always", category=DeprecationWarning, module="__main__")
