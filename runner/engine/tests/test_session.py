"""What a run leaves behind in the process."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import frazil_engine
from frazil_engine.session import forget_modules


def test_modules_of_the_users_directory_are_forgotten_but_never_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own modules that lie below the user's directory must stay, or plans would carry what they refer to by value."""
    (tmp_path / "local_helper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("local_helper")
    own = importlib.import_module("frazil_engine.memory_sources")
    forget_modules({"local_helper"}, str(tmp_path))
    forget_modules({"frazil_engine.memory_sources"}, str(Path(frazil_engine.__file__).parents[1]))
    assert "local_helper" not in sys.modules
    assert sys.modules.get("frazil_engine.memory_sources") is own
