"""Clocks that jump while a program runs: a library loaded before it reads the jump from a file, again and again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import libfaketime
from installation import STOP_SECONDS_MAX, Installation, Setup
from processes import wait_until

LIBRARY = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
READY_SECONDS_MAX = 30.0


class Clock:
    """The clock of every program that is started with `environment`."""

    def __init__(self, folder: Path, name: str) -> None:
        # Readable by the user that Postgres runs as, too.
        self.file = folder / f"{name}.clock"
        library = folder / "libfaketime.so"
        if not library.exists():
            shutil.copy(LIBRARY, library)
            library.chmod(0o755)
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            # Clocks that jump are those that tell the time of day; intervals are measured by one that never does.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """From now on it is so much off. Within about a second for all who read it."""
        draft = self.file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.chmod(0o644)
        os.replace(draft, self.file)


class ClockedPostgres:
    """A Postgres of the harness' own, on data that `pc dev` has made, whose clock can jump."""

    def __init__(self, cache: Path) -> None:
        made = Installation(Setup(queue="postgres"), cache)
        (postmaster,) = made.processes("postgres")
        command = Path(f"/proc/{postmaster.pid}/cmdline").read_bytes().decode().strip("\0").split("\0")
        owner = Path(f"/proc/{postmaster.pid}").stat()
        self.url = made.database_url
        self.root = made.root
        self._made = made
        made.dev.send_signal(signal.SIGINT)
        assert made.dev.wait(STOP_SECONDS_MAX) == 0
        self.clock = Clock(made.root, "postgres")
        self._process = subprocess.Popen(
            command,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", **self.clock.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=owner.st_uid,
            group=owner.st_gid,
        )
        wait_until("the clocked Postgres answers", lambda: made.rows("SELECT 1 AS one"), READY_SECONDS_MAX)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(STOP_SECONDS_MAX)
        shutil.rmtree(self.root, ignore_errors=True)
