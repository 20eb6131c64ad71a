"""Handles of jobs that were submitted, in this process or in another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from frazil._client import Client
from frazil._events import follow_logs
from frazil._logs import LogLine, LogPrinter, log_line
from frazil._remote_errors import failure_error, reissue_warnings
from frazil._watch import Watch, in_thread
from frazil._wire import FINAL_STATUSES, PAGE_SIZE_MAX
from frazil.errors import FailureGroup, QueriesFailed, QueryCancelled
from frazil.results import ManyResult, QueryResult, single_result

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from frazil._outputs import Sink
    from frazil._wire import ErrorInfo, Job, JobMode, JobStatus


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes
    ----------
    status
        ``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``.
    phase
        What is going on, in words; None once the job has ended.
    total, queued, running, succeeded, failed, cancelled
        Numbers of queries. A single query has a total of 1.
    elapsed_seconds
        Since the submission; up to the end once the job has ended.
    """

    status: JobStatus
    phase: str | None
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    elapsed_seconds: float

    @property
    def done(self) -> int:
        """Number of queries that have ended, in whatever way."""
        return self.succeeded + self.failed + self.cancelled


_SPLIT_CODES = frozenset({"invalid_key", "limit_exceeded"})
"""Errors of finding the keys, before any query runs."""


class RemoteJob:
    """What the handles of all jobs have in common."""

    def __init__(self, client: Client, job: Job, sink: Sink | None = None) -> None:
        self._client = client
        self._job = job
        self._sink = sink
        self._printer = LogPrinter(client, job["id"])
        self._fired_at = time.monotonic()
        self._warned: set[tuple[str, str]] = set()

    @property
    def id(self) -> str:
        """Id of the job (``job_...``): ``frazil.job(id)`` is this handle on any machine."""
        return self._job["id"]

    @property
    def name(self) -> str | None:
        """The name that it was submitted with."""
        return self._job["name"]

    @property
    def labels(self) -> dict[str, str]:
        """The labels that it was submitted with."""
        return dict(self._job["labels"])

    @property
    def mode(self) -> JobMode:
        """``single``, ``distributed``, ``partitioned`` or ``many``."""
        return self._job["mode"]

    @property
    def retry_of(self) -> str | None:
        """The job that this one is a retry of."""
        return self._job["retryOf"]

    @property
    def created_at(self) -> datetime:
        """When it was submitted."""
        return _time(self._job["createdAt"])

    def status(self) -> JobStatus:
        """The job's status right now, such as ``running``; see `JobProgress` for all of them."""
        return self._refreshed()["status"]

    def progress(self) -> JobProgress:
        """How far the job is right now.

        Examples
        --------
        >>> handle.progress().done
        """
        job = self._refreshed()
        end = _time(job["finishedAt"]) if job["finishedAt"] else datetime.now(timezone.utc)
        elapsed_s = max(0.0, (end - _time(job["createdAt"])).total_seconds())
        return JobProgress(job["status"], job["phase"], **job["counts"], elapsed_seconds=elapsed_s)

    def logs(self, *, follow: bool = False) -> Iterator[LogLine]:
        """What remote code printed, in order.

        Parameters
        ----------
        follow
            Whether to go on with new lines as they come, until the job ends.

        Examples
        --------
        >>> for line in handle.logs(follow=True):
        ...     print(line.text)
        """
        cursor: str | None = None
        while True:
            lines, next_cursor = self._client.logs_page(self.id, cursor=cursor, limit=PAGE_SIZE_MAX)
            yield from map(log_line, lines)
            cursor = next_cursor or cursor
            if len(lines) < PAGE_SIZE_MAX:
                break
        if follow:
            for event, data in follow_logs(self._client, self.id, cursor):
                if event == "log":
                    yield log_line(data)
                else:
                    self._job = data

    def cancel(self) -> None:
        """Cancel what has not ended yet. Does nothing to a job that has ended."""
        self._job = self._client.cancel(self.id)

    def failures(self) -> list[FailureGroup]:
        """The failures so far, those that are alike together, the most frequent first."""
        groups = [
            FailureGroup(
                failure_error(found["error"], self.id), found["count"], tuple(found["frames"]), found["exampleTaskId"]
            )
            for found in self._client.failures(self.id)
        ]
        return sorted(groups, key=lambda group: -group.count)

    def _refreshed(self) -> Job:
        if self._job["status"] not in FINAL_STATUSES:
            self._job = self._client.job(self.id)
        return self._job

    def _watch(self, timeout: float | None, logs: bool | None) -> Watch:
        return Watch(
            self._client, self._job, timeout_s=timeout, logs=logs, printer=self._printer, fired_at=self._fired_at
        )

    def __repr__(self) -> str:
        name = f" {self._job['name']!r}" if self._job["name"] else ""
        return f"<{type(self).__name__} {self.id}{name}: {self._job['status']}>"


class InProgressQueryRemote(RemoteJob):
    """A single query that was submitted. It runs whether or not this process lives on.

    Await it in async code: ``result = await handle``.

    Examples
    --------
    >>> in_progress = lf.remote(ctx).write_parquet("s3://dst/")
    >>> in_progress.status()
    'running'
    >>> result = in_progress.await_result()
    """

    def await_result(self, timeout: float | None = None, *, logs: bool | None = None) -> QueryResult:
        """Wait for the query to end.

        Parameters
        ----------
        timeout
            Seconds after which to stop waiting; the query goes on. Default: as long as it takes.
        logs
            Whether to print here what remote code prints (the first 1,000 lines). Default: yes, unless the variable
            ``FRAZIL_LOGS`` is ``0``.

        Returns
        -------
        QueryResult
            The result.

        Raises
        ------
        QueryFailed
            The query failed. The error is also of the type that the query failed with, where that is builtin or Polars'
            own (``ColumnNotFoundError``, ``ZeroDivisionError``); its message and remote traceback are the query's.
        QueryCancelled
            It was cancelled.
        AwaitTimeout
            It had not ended within `timeout`. A ``TimeoutError``, too.

        Examples
        --------
        >>> result = in_progress.await_result(timeout=60)
        """
        self._job = self._watch(timeout, logs).run()
        return self._result()

    async def await_result_async(self, timeout: float | None = None, *, logs: bool | None = None) -> QueryResult:
        """`await_result` for async code; the event loop goes on meanwhile.

        Examples
        --------
        >>> result = await in_progress.await_result_async()
        """
        self._job = await self._watch(timeout, logs).run_async()
        return self._result()

    def __await__(self) -> Generator[Any, None, QueryResult]:
        return self.await_result_async().__await__()

    def retry(self) -> InProgressQueryRemote:
        """Submit the query again, after it has failed or was cancelled, as a new job that is linked to this one.

        Raises
        ------
        Conflict
            The job has not ended, or it succeeded.
        """
        return InProgressQueryRemote(self._client, self._client.retry(self.id), self._sink)

    def _result(self) -> QueryResult:
        if self._job["status"] == "succeeded":
            result = single_result(self._job, self._sink)
            reissue_warnings(result._wire["warnings"], self._warned)
            return result
        raise failure_error(_error_of(self._job), self.id)


class InProgressQueriesRemote(RemoteJob):
    """A partitioned query, or many queries, that were submitted: one handle for all of them.

    Await it in async code: ``results = await handle``.

    Examples
    --------
    >>> in_progress = pc.spawn_many(frames, dst="s3://dst/")
    >>> in_progress.progress().succeeded
    17
    >>> results = in_progress.await_result(raise_on_failure=False)
    """

    def await_result(
        self, timeout: float | None = None, *, raise_on_failure: bool = True, logs: bool | None = None
    ) -> ManyResult:
        """Wait for all queries to end.

        Parameters
        ----------
        timeout
            Seconds after which to stop waiting; the queries go on. Default: as long as it takes.
        raise_on_failure
            Whether to raise when a query failed or was cancelled. If not, the results of the others are returned, and
            `failures()` tells the rest.
        logs
            Whether to print here what remote code prints (the first 1,000 lines). Default: yes, unless the variable
            ``FRAZIL_LOGS`` is ``0``.

        Returns
        -------
        ManyResult
            The results of the queries that succeeded.

        Raises
        ------
        QueriesFailed
            Some failed; the error holds the failures, grouped, and the results of the others.
        QueryFailed
            The only input could not be split by its key, so that no query ran.
        QueryCancelled
            The job was cancelled, and none had failed.
        AwaitTimeout
            They had not ended within `timeout`. A ``TimeoutError``, too.

        Examples
        --------
        >>> results = in_progress.await_result()
        """
        self._job = self._watch(timeout, logs).run()
        return self._results(raise_on_failure)

    async def await_result_async(
        self, timeout: float | None = None, *, raise_on_failure: bool = True, logs: bool | None = None
    ) -> ManyResult:
        """`await_result` for async code; the event loop goes on meanwhile."""
        self._job = await self._watch(timeout, logs).run_async()
        return await in_thread(self._results, raise_on_failure)

    def __await__(self) -> Generator[Any, None, ManyResult]:
        return self.await_result_async().__await__()

    @property
    def results(self) -> ManyResult:
        """The results that are there right now; the other queries may still run."""
        return ManyResult(self._client, self._refreshed(), self._sink)

    def retry(self) -> InProgressQueriesRemote:
        """Submit the queries that failed or were cancelled again, as a new job that is linked to this one.

        Raises
        ------
        Conflict
            The job has not ended, or all of it succeeded.
        """
        return InProgressQueriesRemote(self._client, self._client.retry(self.id), self._sink)

    def _results(self, raise_on_failure: bool) -> ManyResult:
        job = self._job
        results = ManyResult(self._client, job, self._sink)
        if job["status"] == "succeeded" or not raise_on_failure:
            return results
        counts = job["counts"]
        # The job as a whole: it was cancelled, or its input could not be split by its key.
        if counts["failed"] == 0 or _is_unsplit(job):
            error = failure_error(_error_of(job), self.id)
            if isinstance(error, QueryCancelled):
                error.results = results
            raise error
        raise _queries_failed(job, self.failures(), results)


def _queries_failed(job: Job, groups: list[FailureGroup], results: ManyResult) -> QueriesFailed:
    counts = job["counts"]
    lines = [f"{counts['failed']:_} of {counts['total']:_} queries of {job['id']} failed"]
    if counts["cancelled"]:
        lines[0] += f", {counts['cancelled']:_} were cancelled"
    lines += [f"  {group}" for group in groups[:10]]
    if len(groups) > 10:
        lines.append(f"  ... and {len(groups) - 10} more kinds: see .groups")
    return QueriesFailed(
        "\n".join(lines),
        groups=groups,
        results=results,
        job_id=job["id"],
        hint="this error's .results holds the results of the others; the handle's .retry() runs the failed ones again",
    )


def _is_unsplit(job: Job) -> bool:
    """Whether no query ran, because the job's only input could not be split.

    An input that can't be split counts as one failed query, and those of the others run: only where it is the only one
    is its error that of the job. The error of several carries the code of the most frequent failure.
    """
    return job["partitionBy"] is not None and job["counts"]["total"] <= 1 and _error_of(job)["code"] in _SPLIT_CODES


def _error_of(job: Job) -> ErrorInfo:
    if job["error"] is not None:
        return job["error"]
    if job["status"] == "cancelled":
        return {"code": "cancelled", "message": f"{job['id']} was cancelled"}
    return {"code": "query_failed", "message": f"{job['id']} failed"}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
