"""Turns errors that came over the wire into exceptions, and remote warnings into local ones."""

from __future__ import annotations

import builtins
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars.exceptions as polars_exceptions

from frazil import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from frazil._wire import EngineWarning, ErrorInfo, WireCluster

_BY_CODE: dict[str, type[errors.FrazilError]] = {
    "invalid_request": errors.InvalidRequest,
    "unauthenticated": errors.Unauthenticated,
    "not_found": errors.NotFound,
    "method_not_allowed": errors.ServerError,
    "request_timeout": errors.ServerError,
    "conflict": errors.Conflict,
    "stale_attempt": errors.ServerError,
    "too_large": errors.LimitExceeded,
    "unsupported_media_type": errors.ServerError,
    "unprocessable": errors.InvalidRequest,
    "invalid_plan": errors.InvalidRequest,
    "unsupported_polars": errors.UnsupportedVersion,
    "unsupported_python": errors.UnsupportedVersion,
    "idempotency_mismatch": errors.Conflict,
    "limit_exceeded": errors.LimitExceeded,
    "not_available": errors.NotAvailable,
    "too_many_requests": errors.Unavailable,
    "internal": errors.ServerError,
    "unavailable": errors.Unavailable,
    "capacity": errors.Unavailable,
    "cluster_failed": errors.ClusterFailed,
}
"""Problems of requests. A failed task is a `QueryFailed` whatever its code."""

_FAILED_BY_CODE: dict[str, type[errors.QueryFailed]] = {
    "out_of_memory": errors.OutOfMemory,
    "timed_out": errors.QueryTimedOut,
    "cancelled": errors.QueryCancelled,
}

# Raising these here would mean something else to the interpreter than "the remote query failed".
_CONTROL_FLOW = (StopIteration, StopAsyncIteration)


def problem_error(problem: dict[str, Any], status: int) -> errors.FrazilError:
    """The exception of a problem document."""
    code = str(problem.get("code") or "internal")
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    issues = problem.get("issues") or []
    for issue in issues[:20]:
        detail += f"\n  {issue.get('path')}: {issue.get('message')}"
    kind = _BY_CODE.get(code)
    if kind is None:
        kind = errors.InvalidRequest if 400 <= status < 500 else errors.ServerError
    hint = problem.get("hint")
    if hint is None and code == "unauthenticated":
        hint = "log in with frazil.login(address, token), or set FRAZIL_TOKEN"
    return kind(detail, code=code, hint=hint)


def failure_error(info: ErrorInfo, job_id: str | None) -> errors.QueryFailed:
    """The exception of a failed task: of the user's own exception type where that is builtin or Polars' own."""
    code, name, module = info["code"], info.get("type"), info.get("module")
    message = info["message"]
    kind: type[errors.QueryFailed] | None = _FAILED_BY_CODE.get(code)
    if kind is None and name:
        user_type = _exception_type(name, module)
        kind = errors.RemoteError if user_type is None else _failed_type(user_type)
        if user_type is None:
            message = f"{module}.{name}: {message}" if module else f"{name}: {message}"
    kind = kind or errors.QueryFailed
    error = kind(message, code=code, hint=info.get("hint"))
    error.job_id, error.remote_type, error.remote_module = job_id, name, module
    error.remote_traceback = info.get("traceback")
    if error.remote_traceback:
        _attach(error, f"Remote traceback (job {job_id}):\n{error.remote_traceback.rstrip()}")
    return error


def _attach(error: errors.FrazilError, note: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.hint = note if error.hint is None else f"{error.hint}\n{note}"


def _exception_type(name: str, module: str | None) -> type[BaseException] | None:
    """The local class of that name: builtin or Polars' own, never anything that would have to be imported."""
    found: object = None
    if module in (None, "builtins"):
        found = getattr(builtins, name, None)
    if found is None and (module is None or module.split(".", 1)[0] in ("polars", "pyo3_runtime")):
        found = getattr(polars_exceptions, name, None)
    if not isinstance(found, type) or not issubclass(found, BaseException) or issubclass(found, _CONTROL_FLOW):
        return None
    # Neither SystemExit nor KeyboardInterrupt; Polars' PanicException derives from BaseException and is wanted.
    return found if issubclass(found, Exception) or found.__name__ == "PanicException" else None


@lru_cache(maxsize=256)
def _failed_type(user_type: type[BaseException]) -> type[errors.QueryFailed]:
    """A class that is both `QueryFailed` and the user's type, and looks like the latter in tracebacks."""
    body = {"__module__": user_type.__module__, "__doc__": user_type.__doc__, "__reduce__": _reduce_failed}
    try:
        kind = type(user_type.__name__, (errors.QueryFailed, user_type), body)
        kind("message")
    except TypeError:  # Conflicting memory layouts, or a constructor with other arguments.
        return errors.RemoteError
    return kind


def _reduce_failed(self: errors.QueryFailed) -> tuple[Any, ...]:
    return _rebuild_failed, (self.remote_type, self.remote_module, self.args, self.__dict__.copy())


def _rebuild_failed(name: str, module: str | None, args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    user_type = _exception_type(name, module)
    return errors.rebuild(errors.RemoteError if user_type is None else _failed_type(user_type), args, state)


def reissue_warnings(found: Iterable[EngineWarning], seen: set[tuple[str, str]]) -> None:
    """Warns locally of what the run warned of, each (category, message) once per `seen`."""
    for warning in found:
        key = (warning["category"], warning["message"])
        if key in seen:
            continue
        seen.add(key)
        warnings.warn(warning["message"], _warning_type(warning["category"]), stacklevel=_user_stacklevel())


def _warning_type(category: str) -> type[Warning]:
    name = category.rsplit(".", 1)[-1]
    for module in (builtins, polars_exceptions):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, Warning):
            return found
    return UserWarning


_PACKAGE = str(Path(__file__).parent)


def _user_stacklevel() -> int:
    """Stack level, as `warnings.warn` counts it in the caller, of the first frame outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def cluster_error(cluster: WireCluster) -> errors.FrazilError:
    """Why a cluster is not there."""
    info = cluster["error"]
    if info is None:
        return errors.ClusterFailed(f"cluster {cluster['id']} is {cluster['status']}")
    kind = _BY_CODE.get(info["code"], errors.ClusterFailed)
    return kind(f"cluster {cluster['id']}: {info['message']}", code=info["code"], hint=info.get("hint"))
