"""A line of progress: on a terminal's stderr, or in a notebook's cell. Own few lines rather than a dependency."""

from __future__ import annotations

import html
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from frazil._wire import Job

SHOWN_AFTER_SECONDS = 1.0
_BAR_CELLS = 20


class Display(Protocol):
    """Where progress shows."""

    def show(self, text: str, fraction: float | None) -> None: ...
    def clear(self) -> None: ...


def open_display() -> Display | None:
    """The display of this process; None when progress is turned off or nobody would see it."""
    if os.environ.get("FRAZIL_PROGRESS") == "0":
        return None
    notebook = _notebook()
    if notebook is not None:
        return notebook
    try:
        return Terminal() if sys.stderr.isatty() else None
    except (AttributeError, ValueError):  # No stderr, or a closed one.
        return None


class Terminal:
    """One line that is written over."""

    def show(self, text: str, fraction: float | None) -> None:
        bar = "" if fraction is None else f"{progress_bar(fraction)} "
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{f'{bar}{text}'[:width]}\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class Notebook:
    """One display that is updated in place."""

    def __init__(self) -> None:
        self._handle: object | None = None

    def show(self, text: str, fraction: float | None) -> None:
        bar = "" if fraction is None else f'<progress value="{fraction:.4f}" max="1"></progress> '
        self._put(f"{bar}<span>{html.escape(text)}</span>")

    def clear(self) -> None:
        if self._handle is not None:
            self._put("")

    def _put(self, markup: str) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        if self._handle is None:
            self._handle = display(HTML(markup), display_id=True)
        else:
            self._handle.update(HTML(markup))  # type: ignore[attr-defined]


def _notebook() -> Notebook | None:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return Notebook() if shell is not None and hasattr(shell, "kernel") else None


def progress_bar(fraction: float) -> str:
    full = round(min(max(fraction, 0.0), 1.0) * _BAR_CELLS)
    return "█" * full + "░" * (_BAR_CELLS - full)


def describe(job: Job, elapsed_s: float) -> tuple[str, float | None]:
    """What to show of a job: one line, and how much of it is done (None while that is not known)."""
    counts = job["counts"]
    done = counts["succeeded"] + counts["failed"] + counts["cancelled"]
    parts = [job["name"] or job["id"], job["phase"] or job["status"]]
    fraction: float | None = None
    if job["mode"] in ("many", "partitioned") and counts["total"] > 0:
        fraction = done / counts["total"]
        parts.append(f"{done:_}/{counts['total']:_} done")
        if counts["failed"]:
            parts.append(f"{counts['failed']:_} failed")
    parts.append(f"{elapsed_s:.0f} s")
    return " · ".join(parts), fraction


class Progress:
    """Shows a job's progress once it has taken a while."""

    def __init__(self, display: Display | None, started_at: float) -> None:
        self.display = display
        self._started_at = started_at
        self._shown = False

    def update(self, job: Job) -> None:
        elapsed_s = time.monotonic() - self._started_at
        if self.display is not None and elapsed_s >= SHOWN_AFTER_SECONDS:
            self._shown = True
            self.display.show(*describe(job, elapsed_s))

    def clear(self) -> None:
        if self.display is not None and self._shown:
            self.display.clear()
