"""One publisher of a staged output at a time: the attempt that was fenced and thaws, and the one that took over."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from frazil_engine.errors import Failure
from frazil_engine.limits import PUBLISH_LOCK_SECONDS_MAX

POLL_SECONDS = 0.01

try:
    import fcntl
except ImportError:  # Not a system with locks of this kind.
    fcntl = None


@contextlib.contextmanager
def publishing_alone(staging: str) -> Iterator[None]:
    """Holds a lock on the staging directory. It ends with the process that holds it, however that ends. Where the
    directory is gone already, or its file system has no such locks, nobody is waited for. Raises Failure
    (storage_failed, to be tried again) when another process holds it for too long: it is frozen.
    """
    try:
        folder = os.open(staging, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        acquire(folder, staging)
        yield
    finally:
        os.close(folder)


def acquire(folder: int, staging: str) -> None:
    if fcntl is None:
        return
    deadline = time.monotonic() + PUBLISH_LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Failure(
                    "storage_failed", f"Another process is publishing {staging}, and does not end.", retryable=True
                ) from None
            time.sleep(POLL_SECONDS)
        except OSError:
            return
