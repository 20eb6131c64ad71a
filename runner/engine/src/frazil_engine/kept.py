"""Results that are kept with their task: small ones without a destination, which their head holds whole.

They have no file. A query that reads nothing from storage and can't grow much is run in memory, where such a result
costs a tenth of what writing a file, reading its head back and making it durable cost.
"""

from __future__ import annotations

import polars as pl

from frazil_engine.limits import HEAD_ROWS_MAX, LIGHT_PLAN_BYTES_MAX
from frazil_engine.protocol import Run
from frazil_engine.sinks import Written, describe_schema, encode_stream

# What reads from storage, or makes many rows or long text of few: better left to the streaming engine. A column of such
# a name is taken for one, which does no harm.
GROWING = (
    b"Join", b"Range", b"Repeat", b"Explode", b"Extend", b"ample", b"Space", b"Pad", b"Fill", b"PipeWithSchema",
)  # fmt: skip


def is_light(run: Run) -> bool:
    """Whether the plan carries all of its data, and little of it, so that it may be run in memory."""
    return (
        run.kind == "query"
        and run.plan_kind == "dsl"
        and run.engine in ("auto", "in-memory")
        and run.output.destination is None
        and run.output.format == "ipc"
        and not run.output.options
        and len(run.plan) <= LIGHT_PLAN_BYTES_MAX
        and run.plan.count(b"Scan") == run.plan.count(b"DataFrameScan")
        and not any(word in run.plan for word in GROWING)
    )


def keep_whole(frame: pl.DataFrame, head_bytes_max: int) -> Written | None:
    """The result as one that its head holds whole; None when it is too large for that."""
    # A stream does not tell the height of a frame without columns.
    if frame.width == 0 or frame.height > HEAD_ROWS_MAX or frame.estimated_size() > head_bytes_max:
        return None
    head = encode_stream(frame)
    return Written(describe_schema(frame), frame.height, len(head), head) if len(head) <= head_bytes_max else None
