"""What the chaos tests submit, with what must come of it: worked out by hand, never by asking the installation."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import frazil as pc
import polars as pl
from installation import SECRET_STORAGE_OPTION, Installation
from processes import wait_until

Kind = Literal["single", "many", "partitioned", "kept"]
Mode = Literal["error", "overwrite", "append"]
RETRIES = 19
"""As many as can be asked for: under this many faults no task may run out of attempts."""
ROWS = 5
KEYS = ("a", "b", "c")
GO_SECONDS_MAX = 180.0
SECRET_IN_PLAN = "chaos-plan-secret-51c9"
SECRET_IN_ENVIRONMENT = "chaos-environment-secret-b04e"


@dataclass
class Work:
    """One submission. `expected` is the sorted content of column v per partition ("" where there is one result)."""

    name: str
    kind: Kind
    expected: dict[str, list[int]]
    destination: str | None = None
    mode: Mode = "error"
    old: list[int] | None = None
    tries_max: int = RETRIES + 1
    signals: Path | None = None
    job_id: str | None = None
    cancels: bool = False
    cancelled: bool = False
    # The checker has looked at it, after its end.
    checked: bool = False
    failure: str | None = None
    handle: Any = field(default=None, repr=False)

    def go(self) -> None:
        """Lets its functions return."""
        assert self.signals is not None
        (self.signals / "go").touch()

    def started(self) -> list[tuple[int, int]]:
        """Frame and process of every run of one of its functions so far."""
        assert self.signals is not None
        names = [path.name.split(".") for path in self.signals.iterdir() if path.name != "go"]
        return [(int(frame), int(pid)) for frame, pid in names]


def waits(folder: str, frame: int, prints_max: int) -> Callable[[pl.Series], pl.Series]:
    """A user's function that says where it runs, waits for a file, and squares."""
    seconds = GO_SECONDS_MAX

    def square(values: pl.Series) -> pl.Series:
        import time

        deadline = time.monotonic() + seconds
        prints_left = prints_max
        while True:
            # What its own clock says, and, through the line's time, what its runner's says.
            with open(f"{folder}/{frame}.{os.getpid()}", "w") as file:
                file.write(str(time.time()))
            if prints_left > 0:
                print("waiting", flush=True)
                prints_left -= 1
            for _ in range(50):
                if os.path.exists(f"{folder}/go"):
                    return values * values
                time.sleep(0.005)
            if time.monotonic() > deadline:
                raise TimeoutError("nobody said go")

    return square


class Workload:
    """Makes and submits work for one installation."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.works: list[Work] = []
        # So often do functions that wait print. While a gate holds a job's row, lines of this job wait for it; and with
        # them every job that has lines in the same batch.
        self.prints_max = 1
        self._lock = threading.Lock()
        self._count = 0
        for name in ("dst", "signals", "src"):
            (installation.root / name).mkdir(exist_ok=True)
        self._source = installation.root / "src" / "rows.parquet"
        keys = [key for key in KEYS for _ in range(ROWS)]
        pl.DataFrame({"k": keys, "n": range(len(keys))}).write_parquet(self._source)

    def _address(self) -> None:
        """The client takes its settings from the environment: those of the installation that is used now."""
        os.environ["FRAZIL_ADDRESS"] = self.installation.address
        os.environ["FRAZIL_TOKEN"] = self.installation.token
        os.environ["FRAZIL_PROGRESS"] = "0"

    def make(
        self, kind: Kind, label: str, *, frames: int = 2, mode: Mode = "error", python: bool = True
    ) -> tuple[Work, list[pl.LazyFrame]]:
        """The work and its queries. Nothing is submitted yet. Partitioned work never waits."""
        with self._lock:
            self._count += 1
            number = self._count
        name = f"{label}-{number}"
        work = Work(name, kind, {}, mode=mode)
        if kind != "kept":
            work.destination = str(self.installation.root / "dst" / name)
        if kind == "partitioned":
            work.expected = {
                f"k={key}": [(place * ROWS + row) ** 2 for row in range(ROWS)] for place, key in enumerate(KEYS)
            }
            lf = pl.scan_parquet(self._source).select("k", v=pl.col("n") * pl.col("n"))
            queries = [lf]
        else:
            frames = frames if kind == "many" else 1
            if python:
                work.signals = self.installation.root / "signals" / name
                work.signals.mkdir()
            queries = [self._query(work, number, frame) for frame in range(frames)]
            for frame in range(frames):
                first = number * 1_000 + frame * 10
                place = f"frame={frame}" if kind == "many" else ""
                work.expected[place] = [(first + row) ** 2 for row in range(ROWS)]
        if mode == "overwrite":
            self._leave_old_data(work)
        with self._lock:
            self.works.append(work)
        return work, queries

    def _query(self, work: Work, number: int, frame: int) -> pl.LazyFrame:
        first = number * 1_000 + frame * 10
        lf = pl.LazyFrame({"n": range(first, first + ROWS), "s": [SECRET_IN_PLAN] * ROWS})
        lf = lf.filter(pl.col("s") == SECRET_IN_PLAN)
        if work.signals is None:
            return lf.select(v=pl.col("n") * pl.col("n"))
        squares = pl.col("n").map_batches(waits(str(work.signals), frame, self.prints_max), return_dtype=pl.Int64)
        return lf.select(v=squares)

    def _leave_old_data(self, work: Work) -> None:
        """What mode "overwrite" replaces: a reader may see all of it or nothing of it."""
        assert work.destination is not None
        work.old = [-2, -1]
        for place in work.expected:
            folder = Path(work.destination) / place
            folder.mkdir(parents=True)
            pl.DataFrame({"v": work.old}).write_parquet(folder / "part-0.parquet")

    def submit(self, work: Work, queries: list[pl.LazyFrame], context: pc.ComputeContext) -> None:
        """Submits as users do, repeats included. A submission that never got an answer leaves `job_id` empty."""
        self._address()
        options: dict[str, Any] = {"n_retries": RETRIES, "name": work.name}
        try:
            work.handle = self._submit(work, queries, context, options)
            work.job_id = work.handle.id
        except pc.FrazilError as error:
            work.failure = f"{type(error).__name__}: {error}"

    def _submit(self, work: Work, queries: list[pl.LazyFrame], context: pc.ComputeContext, options: Any) -> Any:
        if work.kind == "kept":
            return pc.spawn(queries[0], context=context, **options)
        options |= {"dst": work.destination, "mode": work.mode, "sink": "parquet"}
        options |= {"storage_options": {"secret": SECRET_STORAGE_OPTION}}
        if work.kind == "single":
            return pc.spawn(queries[0], context=context, **options)
        if work.kind == "many":
            return pc.spawn_many(queries, context=context, **options)
        remote = pc.remote(queries[0], context, n_retries=RETRIES, name=work.name)
        return remote.partition_by("k").write_parquet(work.destination, mode=work.mode)

    def submit_soon(self, work: Work, queries: list[pl.LazyFrame], context: pc.ComputeContext) -> threading.Thread:
        """The same beside everything else."""
        thread = threading.Thread(target=self.submit, args=(work, queries, context), daemon=True)
        thread.start()
        return thread

    def cancel_soon(self, work: Work) -> threading.Thread:
        """Cancels as users do. `cancelled` says that the control plane has confirmed it."""
        work.cancels = True

        def cancel() -> None:
            try:
                work.handle.cancel()
                work.cancelled = True
            except pc.FrazilError as error:
                work.failure = f"{type(error).__name__}: {error}"

        thread = threading.Thread(target=cancel, daemon=True)
        thread.start()
        return thread

    def wait_started(self, work: Work, frames: int) -> None:
        wait_until(
            f"{frames} functions of {work.name} run", lambda: len({frame for frame, _ in work.started()}) >= frames
        )

    def wait_ended(self, works: list[Work], seconds: float = 120.0) -> None:
        """Until each of them has ended, as Postgres says."""
        names = [work.name for work in works]

        def all_ended() -> bool:
            open_jobs = self.installation.rows(
                "SELECT name FROM jobs WHERE name = ANY(%s) AND status IN ('queued', 'running')", names
            )
            return not open_jobs

        wait_until(f"{', '.join(names)} have ended", all_ended, seconds)

    def forget(self, works: list[Work]) -> None:
        """They were checked: their files go, so that a long run stays small."""
        with self._lock:
            self.works = [work for work in self.works if work not in works]
        for work in works:
            for folder in (work.destination, work.signals):
                if folder is not None:
                    shutil.rmtree(folder, ignore_errors=True)

    def random_work(self, random_source: random.Random) -> tuple[Work, list[pl.LazyFrame], pc.ComputeContext]:
        """Any kind of work, as the seed says. It waits for nobody."""
        kind: Kind = random_source.choice(("single", "many", "many", "partitioned", "kept"))
        mode: Mode = "error" if kind == "kept" else random_source.choice(("error", "overwrite", "append"))
        python = kind != "partitioned" and random_source.random() < 0.6
        work, queries = self.make(kind, "random", frames=random_source.randint(1, 6), mode=mode, python=python)
        if work.signals is not None:
            work.go()
        return work, queries, random_source.choice(CONTEXTS)


WARM = pc.ComputeContext(cpus=6, memory=3, cluster_size=2)
WHOLE = pc.ComputeContext(cpus=2, memory=2)
DRAINED = pc.ComputeContext(cpus=1, memory=1.5)
CONTEXTS = (WARM, WARM, WHOLE)


def cold_context(number: int) -> pc.ComputeContext:
    """A shape that no other cluster has, and that goes soon after."""
    return pc.ComputeContext(
        cpus=1, memory=1 + number / 1_000, idle_timeout=5, env={"CHAOS_SECRET": SECRET_IN_ENVIRONMENT}
    )
