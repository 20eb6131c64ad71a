"""Results without a destination: a file of its own per attempt, which nothing reads before the task was recorded."""

from __future__ import annotations

import contextlib
import os

from frazil_engine import objects
from frazil_engine.places import ObjectPlace, local_target, object_target, parse_place
from frazil_engine.protocol import Run, Task
from frazil_engine.sinks import EXTENSIONS, Target


class ResultFile:
    """Where an attempt's result is kept."""

    def __init__(self, run: Run, task: Task) -> None:
        name = f"{task.attempt}.{EXTENSIONS[run.output.format]}"
        place = parse_place(run.results_location, None)
        if isinstance(place, ObjectPlace):
            place = place.below(run.job_id, task.task_id, name)
            self.location = place.url
            self._place = place
            self._path = None
            # The results location is the workspace's own: the node's credentials open it, not those for a destination.
            self.target: Target = object_target(place, {})
        else:
            folder = os.path.join(place, run.job_id, task.task_id)
            os.makedirs(folder, exist_ok=True)
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
