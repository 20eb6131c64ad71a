"""Limits that other packages share."""

from __future__ import annotations

import re
from pathlib import Path

CONTRACTS = Path(__file__).resolve().parents[3] / "contracts" / "src" / "limits.ts"


def test_shared_limits_are_those_of_the_contracts() -> None:
    from frazil_engine import limits

    names = {"KiB": 1024, "MiB": 1024 * 1024}
    found = dict(re.findall(r"export const (\w+) = ([^;]+);", CONTRACTS.read_text()))
    shared = {name: eval(text, names) for name, text in found.items() if hasattr(limits, name)}
    assert len(shared) >= 10
    assert shared == {name: getattr(limits, name) for name in shared}
