"""The progress line: when it shows, and what it says."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import polars as pl
import pytest
from fake_server import FakeServer

import frazil as pc
from frazil import _progress, _watch
from frazil._progress import Notebook, Terminal, describe, open_display, progress_bar


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def job(**fields: Any) -> Any:
    counts = {"total": 200, "queued": 100, "running": 2, "succeeded": 90, "failed": 8, "cancelled": 0}
    return {"id": "job_1", "name": None, "mode": "many", "status": "running", "phase": None, "counts": counts, **fields}


def test_what_the_line_says() -> None:
    assert describe(job(), 12.3) == ("job_1 · running · 98/200 done · 8 failed · 12 s", 98 / 200)
    line, fraction = describe(job(mode="single", phase="starting the cluster", name="nightly"), 3.0)
    assert (line, fraction) == ("nightly · starting the cluster · 3 s", None)


def test_the_bar_is_full_at_the_end() -> None:
    assert progress_bar(0) == "░" * 20
    assert progress_bar(0.5) == "█" * 10 + "░" * 10
    assert progress_bar(2) == "█" * 20


def test_only_a_terminal_or_a_notebook_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert open_display() is None
    monkeypatch.setattr(sys, "stderr", None)
    assert open_display() is None
    monkeypatch.setattr(sys, "stderr", Tty())
    assert isinstance(open_display(), Terminal)
    monkeypatch.setenv("FRAZIL_PROGRESS", "0")
    assert open_display() is None


def test_a_notebook_gets_one_display_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, content: str) -> None:
            shown.append(f"update {content}")

    def display(content: str, *, display_id: bool) -> Handle:
        shown.append(f"new {content}")
        assert display_id
        return Handle()

    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    module.HTML, module.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    notebook = open_display()
    assert isinstance(notebook, Notebook)
    notebook.show("<phase>", 0.25)
    notebook.show("done", None)
    notebook.clear()
    assert shown[0] == 'new <progress value="0.2500" max="1"></progress> <span>&lt;phase&gt;</span>'
    assert shown[1:] == ["update <span>done</span>", "update "]


def test_a_quick_query_shows_nothing(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Tty()
    monkeypatch.setattr(sys, "stderr", stderr)
    pl.LazyFrame({"a": [1]}).remote().execute().await_result()
    assert stderr.getvalue() == ""


def test_a_slow_one_shows_its_phase_and_leaves_no_line(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_progress, _watch):
        monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.0)
    stderr = Tty()
    monkeypatch.setattr(sys, "stderr", stderr)
    server.jobs.gate.clear()
    server.jobs.phase = "starting the cluster"
    handle = pc.spawn_many([pl.LazyFrame({"a": [1]})] * 4)
    (submitted,) = server.submitted()
    server.jobs.wait(submitted, 10, revision=2)
    server.faults.append(lambda _: server.jobs.gate.set() or False)
    handle.await_result()
    written = stderr.getvalue()
    assert "starting the cluster" in written
    assert written.endswith("\r\x1b[K")


def test_prints_do_not_mix_with_the_line(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (_progress, _watch):
        monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.0)
    stderr = Tty()
    monkeypatch.setattr(sys, "stderr", stderr)
    server.jobs.gate.clear()
    handle = pl.LazyFrame({"a": [1]}).remote().execute()
    (submitted,) = server.submitted()
    submitted.add_log(None, "a warning", "stderr")
    server.jobs.update(submitted)
    server.faults.append(lambda _: server.jobs.gate.set() or False)
    handle.await_result()
    before, _, _ = stderr.getvalue().partition("a warning\n")
    assert before.endswith("\x1b[K") or before == ""
