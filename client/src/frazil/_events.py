"""A job's server-sent events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from frazil._http import RETRY_SECONDS, backoff_seconds, quote_id
from frazil._wire import FINAL_STATUSES
from frazil.errors import FrazilError, ServerError, ServerUnreachable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from frazil._client import Client

SILENCE_SECONDS_MAX = 45.0
"""Heartbeats come every 15 s: a connection that is silent for longer is dead."""
EVENT_BYTES_MAX = 1024 * 1024


def follow_logs(client: Client, job_id: str, after: str | None) -> Iterator[tuple[str, Any]]:
    """Yields ("log", LogLine) for each line after `after`, and last of all ("end", Job). Reconnects where it was.

    Gives up when no connection has brought anything for `RETRY_SECONDS` since one broke. A heartbeat is something: the
    server has nothing else to say while a job prints nothing.
    """
    attempt, lost_at = 0, None
    while True:
        try:
            for event, data in _events(client, job_id, after):
                attempt, lost_at = 0, None
                if event == "log":
                    after = data["id"]
                    yield "log", data
                elif event == "end":
                    yield "end", data
                    return
        except (ServerUnreachable, Unavailable):
            now = time.monotonic()
            lost_at = now if lost_at is None else lost_at
            if now - lost_at > RETRY_SECONDS:
                raise
        attempt += 1
        job = client.job(job_id)
        if job["status"] in FINAL_STATUSES and attempt > 1:
            raise ServerError(f"the event stream of {job_id} broke off before its end")
        time.sleep(backoff_seconds(attempt))


def _events(client: Client, job_id: str, after: str | None) -> Iterator[tuple[str, Any]]:
    import urllib3

    chunks = client.transport.stream(
        f"/v1/jobs/{quote_id(job_id)}/events", {"after": after}, read_timeout_s=SILENCE_SECONDS_MAX
    )
    try:
        yield from parse_events(chunks)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, FrazilError):
            raise
        raise ServerUnreachable(f"the event stream of {job_id} broke off: {error}") from error


def parse_events(chunks: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """(name, parsed data) of each event, and ("comment", None) for each comment."""
    buffer, name, data = b"", "message", []
    for chunk in chunks:
        buffer += chunk
        if len(buffer) > EVENT_BYTES_MAX and b"\n" not in buffer:
            raise ServerError(f"an event is larger than {EVENT_BYTES_MAX} bytes")
        *lines, buffer = buffer.split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r").decode()
            if line.startswith(":"):
                yield "comment", None
            elif line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line:
                if data:
                    yield name, json.loads("\n".join(data))
                name, data = "message", []
