"""Finds table functions such as read_parquet('...') in SQL text, and leaves quoted text, quoted names and comments
alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl

SCANS: dict[str, Callable[[str], pl.LazyFrame]] = {
    "parquet": pl.scan_parquet,
    "csv": pl.scan_csv,
    "ipc": pl.scan_ipc,
    "json": pl.scan_ndjson,
    "ndjson": pl.scan_ndjson,
}
OTHER = r"(?P<other>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/)"
NAME = rf"\bread_(?P<format>{'|'.join(SCANS)})(?P<open>\s*\()"
ARGUMENT = r"(?P<argument>\s*'(?P<path>(?:[^']|'')*)'\s*\))?"
TABLE_FUNCTION = re.compile(f"{OTHER}|{NAME}{ARGUMENT}", re.DOTALL | re.IGNORECASE)


def name_as_polars(text: str) -> str:
    """Polars knows newline-delimited JSON as read_json, and in some releases only lower-case names."""

    def rename(match: re.Match[str]) -> str:
        if match.group("other") is not None:
            return match.group(0)
        format = match.group("format").lower()
        return f"read_{'json' if format == 'ndjson' else format}{match.group('open')}{match.group('argument') or ''}"

    return TABLE_FUNCTION.sub(rename, text)


def lift_scans(text: str, name_scan: Callable[[pl.LazyFrame], str]) -> str:
    """The text with every call on one quoted path replaced by the name that `name_scan` gives to its scan."""

    def lift(match: re.Match[str]) -> str:
        if match.group("path") is None:
            return match.group(0)
        return name_scan(SCANS[match.group("format").lower()](match.group("path").replace("''", "'")))

    return TABLE_FUNCTION.sub(lift, text)
