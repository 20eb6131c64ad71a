"""Heads of results as tables that tell the whole size."""

from __future__ import annotations

import json

import polars as pl

TABLE_ROWS_DEFAULT = 10


def table_text(head: pl.DataFrame, rows: int) -> str:
    """As Polars prints the frame; when `head` is not all of it, its first rows and how many more there are."""
    if head.height >= rows:
        return str(head)
    shown = head.head(_table_rows())
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_rows=-1):
        table = str(shown)
    return f"shape: {_shape(rows, head.width)}\n{table}\n… {rows - shown.height:_} rows more"


def table_html(head: pl.DataFrame, rows: int) -> str:
    if head.height >= rows:
        return head._repr_html_()
    shown = head.head(_table_rows())
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_rows=-1):
        table = shown._repr_html_()
    return f"<small>shape: {_shape(rows, head.width)}</small>{table}<small>… {rows - shown.height:_} rows more</small>"


def _shape(rows: int, columns: int) -> str:
    return f"({rows:_}, {columns:_})"


def _table_rows() -> int:
    """How many rows the user lets Polars print."""
    given = json.loads(pl.Config.save())["environment"].get("POLARS_FMT_MAX_ROWS")
    rows = TABLE_ROWS_DEFAULT if given is None else int(given)
    return rows if rows >= 0 else 1_000_000
