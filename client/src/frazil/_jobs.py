"""Jobs by id, and lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frazil._client import Client, current_client
from frazil._submit import labels_dict
from frazil._wire import PAGE_SIZE_MAX
from frazil.errors import NotFound
from frazil.handles import InProgressQueriesRemote, InProgressQueryRemote

if TYPE_CHECKING:
    from frazil._submit import Labels
    from frazil._wire import Job, JobMode, JobStatus

JOBS_DEFAULT_LIMIT = 50


def _handle_of(client: Client, job: Job) -> InProgressQueryRemote | InProgressQueriesRemote:
    kind = InProgressQueriesRemote if job["mode"] in ("many", "partitioned") else InProgressQueryRemote
    return kind(client, job)


def job(id: str) -> InProgressQueryRemote | InProgressQueriesRemote:
    """The handle of a job that was submitted anywhere in this workspace.

    Parameters
    ----------
    id
        Id of the job (``job_...``).

    Raises
    ------
    NotFound
        There is no such job in this workspace.

    Examples
    --------
    >>> pc.job("job_01k...").await_result()
    """
    if not id:
        raise NotFound("the job id is empty")
    client = current_client()
    return _handle_of(client, client.job(id))


def jobs(
    *,
    limit: int = JOBS_DEFAULT_LIMIT,
    status: JobStatus | None = None,
    user: str | None = None,
    labels: Labels | None = None,
    mode: JobMode | None = None,
) -> list[InProgressQueryRemote | InProgressQueriesRemote]:
    """The workspace's jobs, newest first.

    Parameters
    ----------
    limit
        At most this many.
    status, user, mode
        Only those with this status, of this user, in this mode.
    labels
        Only those with all of these labels: pairs, ``"team=risk"``, or a sequence of those.

    Examples
    --------
    >>> for job in pc.jobs(status="running"):
    ...     print(job.id, job.name, job.progress().done)
    """
    client = current_client()
    wanted = labels_dict(labels)
    query: dict[str, Any] = {"status": status, "user": user, "mode": mode}
    if wanted:  # The server looks for one; the others are looked for here.
        query["label"] = ":".join(next(iter(wanted.items())))
    found: list[InProgressQueryRemote | InProgressQueriesRemote] = []
    cursor: str | None = None
    while len(found) < limit:
        page = client.jobs_page({**query, "limit": min(limit, PAGE_SIZE_MAX), "cursor": cursor})
        found += [_handle_of(client, item) for item in page["items"] if wanted.items() <= item["labels"].items()]
        cursor = page["nextCursor"]
        if cursor is None or not page["items"]:
            break
    return found[:limit]
