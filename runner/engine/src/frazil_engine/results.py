"""Results without a destination: a file of its own per attempt, which nothing reads before the task was recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from frazil_engine import objects
from frazil_engine.errors import Failure
from frazil_engine.places import ObjectPlace, Place, local_target, object_target, parse_place
from frazil_engine.protocol import Run, Task
from frazil_engine.publish_local import MAKE_TRIES_MAX
from frazil_engine.sinks import EXTENSIONS, Target


class ResultFile:
    """Where an attempt's result is kept."""

    def __init__(self, run: Run, task: Task) -> None:
        name = f"{task.attempt}.{EXTENSIONS[run.output.format]}"
        place = parse_place(run.results_location, None)
        # That this attempt runs means that none of the earlier ones was recorded.
        earlier = [(task.task_id, attempt) for attempt in range(1, task.attempt)]
        with contextlib.suppress(Exception):
            discard(place, run.job_id, run.output.format, earlier)
        if isinstance(place, ObjectPlace):
            place = place.below(run.job_id, task.task_id, name)
            self.location = place.url
            self._place = place
            self._path = None
            # The results location is the workspace's own: the node's credentials open it, not those for a destination.
            self.target: Target = object_target(place, {})
        else:
            folder = os.path.join(place, run.job_id, task.task_id)
            make_folder(folder)
            self.location = os.path.join(folder, name)
            self._path = os.path.join(folder, f".{name}.tmp")
            self.target = local_target(self._path)

    def keep(self) -> None:
        """Gives a local file its final name, which a partly written one never has, and makes it durable."""
        if self._path is None:
            return
        os.rename(self._path, self.location)
        fd = os.open(self.location, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def drop(self) -> None:
        """Removes what a failed attempt has written, as far as it can be reached."""
        with contextlib.suppress(Exception):
            if self._path is not None:
                os.unlink(self._path)
            else:
                objects.delete(self._place)


def make_folder(folder: str) -> None:
    """Makes a task's directory. Who removes what other tasks left may remove its empty parent meanwhile, hence the
    tries.
    """
    for _ in range(MAKE_TRIES_MAX):
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(folder, exist_ok=True)
            return
    raise Failure("storage_refused", f"{folder} can't be made.")


def discard(results: Place, job_id: str, format: str, attempts: Iterable[tuple[str, int]]) -> None:
    """Removes what these attempts, each (task, number), have written among the results."""
    folders = set()
    for task_id, attempt in attempts:
        name = f"{attempt}.{EXTENSIONS[format]}"
        if isinstance(results, ObjectPlace):
            objects.delete(results.below(job_id, task_id, name))
            continue
        folder = os.path.join(results, job_id, task_id)
        folders.add(folder)
        for path in (os.path.join(folder, name), os.path.join(folder, f".{name}.tmp")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
