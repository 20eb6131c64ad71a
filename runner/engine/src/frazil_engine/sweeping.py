"""Removes what attempts of an ended job have left behind: outputs that were staged and never published, results of
attempts that lost their task, and the repartitioned input.

Only attempts that ended without an answer leave anything. When a job has ended none of its attempts is fenced any
more, so that everything below the job's own staging directory is nobody's.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from frazil_engine import objects, pieces, publish_local, publish_objects, results
from frazil_engine.errors import Failure, describe_error, secret_values
from frazil_engine.places import ObjectPlace, Place, parse_place
from frazil_engine.protocol import Sweep
from frazil_engine.session import Session


def serve_sweep(session: Session, sweep: Sweep) -> None:
    """Answers one `sweep` message."""
    error = None
    try:
        remove_leftovers(sweep)
    except BaseException as failed:
        error = describe_error(failed, secret_values(sweep.storage_options))[0]
    session.channel.send({"type": "swept", "error": error})


def remove_leftovers(sweep: Sweep) -> None:
    """Idempotent: what is gone is gone."""
    if sweep.destination is not None:
        remove_staged(sweep, sweep.destination)
    place = parse_place(sweep.results_location, None)
    pieces.remove_of_job(place, sweep.job_id)
    if sweep.destination is None:
        results.discard(place, sweep.job_id, sweep.format, sweep.attempts)
    if not isinstance(place, ObjectPlace):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(place, sweep.job_id))


def remove_staged(sweep: Sweep, destination: str) -> None:
    place: Place
    try:
        place = parse_place(destination, sweep.cwd)
        staging = "" if isinstance(place, ObjectPlace) else staging_of(place, sweep.job_id)
    except Failure:
        # A destination that is refused was never staged for.
        return
    if isinstance(place, ObjectPlace):
        store = objects.open_store(place.root, sweep.storage_options)
        publish_objects.delete_below(store, publish_objects.job_staging(sweep.job_id))
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(staging)
    publish_local.remove_empty_parents(staging)


def staging_of(place: str, job_id: str) -> str:
    return publish_local.job_staging(os.path.realpath(place), job_id)
