"""Everything that Frazil raises. All of it is a `FrazilError`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frazil.results import ManyResult

__all__ = [
    "AwaitTimeout",
    "ClusterFailed",
    "Conflict",
    "FailureGroup",
    "FrazilError",
    "InvalidRequest",
    "LimitExceeded",
    "NotAvailable",
    "NotConfigured",
    "NotFound",
    "OutOfMemory",
    "QueriesFailed",
    "QueryCancelled",
    "QueryFailed",
    "QueryTimedOut",
    "RemoteError",
    "ServerError",
    "ServerUnreachable",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedArgument",
    "UnsupportedVersion",
]


class FrazilError(Exception):
    """Base of every error that Frazil raises.

    Attributes
    ----------
    code
        Stable name of the error, such as ``not_available``: one of the server's error codes, or one of the client's own
        (``not_configured``, ``unreachable``, ``await_timeout``, ``unsupported_argument``).
    detail
        What was wrong.
    hint
        What to do next, when there is something to say.
    """

    code: str = "error"
    detail: str
    hint: str | None

    def __init__(self, detail: str, *, code: str | None = None, hint: str | None = None) -> None:
        # Not super(): some of these are an OSError, or of a user's exception type, whose constructors want more.
        Exception.__init__(self, detail)
        if code is not None:
            self.code = code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return self.detail if self.hint is None else f"{self.detail}\nhint: {self.hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args, self.__dict__.copy())


def rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """An error out of a pickle, without going through its constructor."""
    try:
        error = kind.__new__(kind, *args)
    except TypeError:  # MemoryError's own, beside another base.
        error = Exception.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class NotConfigured(FrazilError):
    """No server address or token is known to this process."""

    code = "not_configured"


class ServerUnreachable(FrazilError, ConnectionError):
    """Nothing answers at the configured address, or the connection kept breaking."""

    code = "unreachable"


class Unauthenticated(FrazilError, PermissionError):
    """The token was missing, wrong or revoked."""

    code = "unauthenticated"


class NotFound(FrazilError, LookupError):
    """There is no such job, cluster or address in this workspace."""

    code = "not_found"


class Conflict(FrazilError):
    """The thing is not in a state that allows this, such as a retry of a job that still runs."""

    code = "conflict"


class InvalidRequest(FrazilError, ValueError):
    """The server could not accept the request as written."""

    code = "invalid_request"


class UnsupportedArgument(FrazilError, TypeError):
    """An argument was given that can't travel to another machine, such as a Python credential provider."""

    code = "unsupported_argument"


class LimitExceeded(FrazilError, ValueError):
    """A limit was exceeded; the message names it and how to raise it."""

    code = "limit_exceeded"


class NotAvailable(FrazilError, NotImplementedError):
    """This installation does not offer what was asked for."""

    code = "not_available"


class UnsupportedVersion(FrazilError):
    """No engine runs this Polars release or this Python version."""

    code = "unsupported_polars"


class ServerError(FrazilError):
    """Something went wrong on the server's side, or an answer could not be understood."""

    code = "internal"


class Unavailable(FrazilError):
    """The service is not available right now, or has no capacity; trying again later may work."""

    code = "unavailable"


class ClusterFailed(FrazilError):
    """The cluster could not be started."""

    code = "cluster_failed"


class AwaitTimeout(FrazilError, TimeoutError):
    """The query did not end within the `timeout` given to `await_result`. It goes on running."""

    code = "await_timeout"


class QueryFailed(FrazilError):
    """A query failed. Where it failed with a builtin or a Polars exception, the error raised is of that type, too.

    Attributes
    ----------
    job_id
        The job that failed.
    remote_type
        Name of the exception class that the engine saw, such as ``ColumnNotFoundError``; None when there was none.
    remote_module
        Module of that class.
    remote_traceback
        Traceback on the engine, the user's own lines first; None when there is none.

    Examples
    --------
    >>> try:
    ...     lf.remote().execute().await_result()
    ... except pl.exceptions.ColumnNotFoundError as error:  # or frazil.QueryFailed
    ...     print(error)
    """

    code = "query_failed"
    job_id: str | None = None
    remote_type: str | None = None
    remote_module: str | None = None
    remote_traceback: str | None = None


class RemoteError(QueryFailed):
    """User code failed with an exception type that is neither builtin nor Polars' own; `remote_type` names it."""

    code = "user_code_failed"


class OutOfMemory(QueryFailed, MemoryError):
    """The query used more memory than the machine it ran on has for it."""

    code = "out_of_memory"


class QueryTimedOut(QueryFailed, TimeoutError):
    """The query ran past the `timeout` that it was submitted with."""

    code = "timed_out"


class QueryCancelled(QueryFailed):
    """The query was cancelled. `results` holds what had succeeded before, for partitioned and many queries."""

    code = "cancelled"
    results: ManyResult | None = None


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one job that are alike.

    Attributes
    ----------
    error
        The error as `await_result` would raise it for a single query.
    count
        How many queries failed in this way.
    frames
        Positions of some of them (at most 20) in the list given to `spawn_many`.
    example_task_id
        Id of one of them.
    """

    error: FrazilError
    count: int
    frames: tuple[int, ...]
    example_task_id: str

    def __str__(self) -> str:
        kind = getattr(self.error, "remote_type", None) or self.error.code
        first_line = self.error.detail.strip().split("\n", 1)[0]
        where = ""
        if self.frames:
            more = ", ..." if self.count > len(self.frames) else ""
            noun = "frame" if len(self.frames) == 1 and not more else "frames"
            where = f" ({noun} {', '.join(map(str, self.frames))}{more})"
        return f"{self.count} x {kind}: {first_line}{where}"


class QueriesFailed(FrazilError):
    """Some queries of a partitioned or many job failed.

    Attributes
    ----------
    groups
        The failures, grouped by error, the most frequent first.
    results
        The results of the queries that succeeded.
    job_id
        The job.

    Examples
    --------
    >>> try:
    ...     results = pc.spawn_many(frames, dst="s3://dst/").await_result()
    ... except pc.QueriesFailed as error:
    ...     print(error.groups)
    ...     results = error.results
    """

    code = "queries_failed"

    def __init__(
        self,
        detail: str,
        *,
        groups: Sequence[FailureGroup],
        results: ManyResult,
        job_id: str,
        hint: str | None = None,
    ) -> None:
        super().__init__(detail, hint=hint)
        self.groups = list(groups)
        self.results = results
        self.job_id = job_id
