"""Turns exceptions into the errors that users see. Codes are those of contracts/src/errors.ts."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterable
from typing import Any

import polars as pl

from frazil_engine.limits import (
    ERROR_HINT_CHARS_MAX,
    ERROR_MESSAGE_CHARS_MAX,
    ERROR_NAME_CHARS_MAX,
    ERROR_TRACEBACK_CHARS_MAX,
)
from frazil_engine.user_code import last_exception, text_of

OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
POLARS_FOLDER = os.path.dirname(os.path.abspath(pl.__file__)) + os.sep
RETRYABLE_CODES = {"storage_failed", "internal"}
# Options that say where or how, and are no secrets. Everything else is left out of messages.
PLAIN_OPTION_NAMES = re.compile(
    r"region|endpoint|allow_http|bucket|container|virtual_hosted|timeout|retries|unsigned|account_name|^use_|conditional"
    r"|skip_signature|s3_express|imdsv1|disable_tagging|server_side_encryption$|checksum|copy_if_not_exists"
)
# Switches and short numbers are no secrets either, and stand in many messages that have nothing to do with the option.
PLAIN_OPTION_VALUE = re.compile(r"true|false|[+-]?\d{1,5}(\.\d+)?", re.IGNORECASE)
SECRET_CHARS_MIN = 4
REDACTED = "[redacted]"


class Failure(Exception):
    """A failure with a code of its own. `detail` is public: what was wrong and what to do next."""

    def __init__(self, code: str, detail: str, *, hint: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.retryable = code in RETRYABLE_CODES if retryable is None else retryable


def secret_values(options: dict[str, str]) -> set[str]:
    """Values of storage options that must not appear in messages."""
    return {
        value
        for name, value in options.items()
        if len(value) >= SECRET_CHARS_MIN
        and not PLAIN_OPTION_VALUE.fullmatch(value)
        and not PLAIN_OPTION_NAMES.search(name.lower())
    }


def redact(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def describe_error(error: BaseException, secrets: Iterable[str] = ()) -> tuple[dict[str, Any], bool]:
    """The error as contracts have it (`ErrorInfo`), and whether the same task may succeed when tried again."""
    error = last_exception.behind(error) or error
    code, hint = classify(error)
    retryable = error.retryable if isinstance(error, Failure) else code in RETRYABLE_CODES and not is_disk_full(error)
    info: dict[str, Any] = {
        "code": code,
        "message": clip(redact(read_message(error), secrets), ERROR_MESSAGE_CHARS_MAX),
    }
    if not isinstance(error, Failure):
        info["type"] = clip(type(error).__name__, ERROR_NAME_CHARS_MAX)
        info["module"] = clip(str(type(error).__module__), ERROR_NAME_CHARS_MAX)
        shown = format_traceback(error, keep_own=code == "internal")
        if shown is not None:
            info["traceback"] = clip_middle(redact(shown, secrets), ERROR_TRACEBACK_CHARS_MAX)
    if hint is not None:
        info["hint"] = clip(redact(hint, secrets), ERROR_HINT_CHARS_MAX)
    return info, retryable


def classify(error: BaseException) -> tuple[str, str | None]:
    """The code of an error, and what to do next."""
    if isinstance(error, Failure):
        return error.code, error.hint
    if isinstance(error, MemoryError):
        return "out_of_memory", "Give the task more memory, or let the query reduce its data earlier."
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        name = error.name.partition(".")[0]
        return (
            "user_code_failed",
            f'The engine has no module "{name}". Name the package that brings it: ComputeContext(packages=["{name}"]).',
        )
    if isinstance(error, (SystemExit, KeyboardInterrupt)) or is_user_error(error):
        return "user_code_failed", None
    if is_polars_error(error) or isinstance(error, OSError):
        return classify_polars_error(error)
    if is_store_error(error):
        return classify_storage_error(text_of(error))
    return "internal", None


def is_user_error(error: BaseException) -> bool:
    """Whether it left a function of the plan and arose in that function or what it called, and not in Polars' own code
    around it.
    """
    if last_exception.behind(error) is not error:
        return False
    return any(
        is_shown_frame(frame.f_code.co_filename)
        for cause in with_causes(error)
        for frame, _ in traceback.walk_tb(cause.__traceback__)
    )


def with_causes(error: BaseException) -> list[BaseException]:
    """The error and those that it was raised from. Of a StopIteration that leaves a generator Python makes another
    error, which has none of the generator's lines.
    """
    found: dict[int, BaseException] = {}
    cause: BaseException | None = error
    while cause is not None and id(cause) not in found:
        found[id(cause)] = cause
        cause = cause.__cause__
    return list(found.values())


def is_polars_error(error: BaseException) -> bool:
    """Whether Polars raised it: one of its own types, a panic, or an exception out of its Rust or Python code."""
    if type(error).__module__.startswith(("polars.", "pyo3_runtime")):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and is_polars_file(frames[-1][0].f_code.co_filename)


# obstore raises a plain ValueError for a path that no store has.
PATH_REFUSED = re.compile(r"could not parse path|error parsing path|contained empty path segment", re.IGNORECASE)


def is_store_error(error: BaseException) -> bool:
    """Whether obstore raised it."""
    if type(error).__module__.startswith("obstore"):
        return True
    return isinstance(error, ValueError) and PATH_REFUSED.search(text_of(error)) is not None


ACCESS_REFUSED = re.compile(
    r"\b40[134]\b|access ?denied|forbidden|unauthorized|unauthenticated|permission denied|invalid ?access ?key"
    r"|signature ?does ?not ?match|no ?such ?(bucket|key|container|file)|object at location .* not found"
    r"|invalid credentials|failed to .* credentials|is not a directory|file name too long|read-only file system"
    r"|operation not permitted|too many levels of symbolic links",
    re.IGNORECASE,
)
STORAGE_TROUBLE = re.compile(
    r"generic (s3|gcs|microsoftazure|http)|error performing|object[- ]store|error sending request|dns error"
    r"|connection (refused|reset|closed)|timed? ?out"
    r"|\b5\d\d (internal|bad gateway|service|gateway|slow)|slowdown|no space left|input/output error|stale file handle",
    re.IGNORECASE,
)

REFUSED_PATHS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def classify_polars_error(error: BaseException) -> tuple[str, str | None]:
    if type(error).__name__ == "PanicException":
        return (
            "query_failed",
            "Polars panicked, which is a fault in Polars. Another engine choice or Polars release may run this query.",
        )
    text = text_of(error)
    if isinstance(error, REFUSED_PATHS):
        return "storage_refused", "Check the path and its credentials as seen from the machine that runs the task."
    if STORAGE_TROUBLE.search(text) or isinstance(error, OSError):
        return classify_storage_error(text)
    return "query_failed", None


DISK_FULL = re.compile(r"no space left on device|disk quota exceeded|os error (28|122)\b", re.IGNORECASE)
FREE_SPACE = "Free space there, or write elsewhere."


def is_disk_full(error: BaseException) -> bool:
    """Space does not come back while the same task is tried again."""
    return (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or DISK_FULL.search(read_message(error)) is not None
    )


# What no repetition changes, and what to do about it. The first that is found holds.
REFUSALS = (
    (
        re.compile(r"<code>(expiredtoken|invalidtoken|tokenrefreshrequired)<", re.IGNORECASE),
        "The credentials are not valid, or not any more: pass new ones.",
    ),
    (
        re.compile(
            r"<code>(authorizationheadermalformed|permanentredirect)<|redirect without location"
            r"|incorrectly configured region",
            re.IGNORECASE,
        ),
        'Name the region that the bucket is in, as storage_options={"aws_region": ...}, and check the endpoint.',
    ),
    (
        # A key service that is busy or away is a passing trouble.
        re.compile(r"<code>kms\.(?!\w*(throttl|internal|timeout|limit|unavailable))\w", re.IGNORECASE),
        "Check that the encryption key exists and is enabled, and that the credentials may use it.",
    ),
    (
        re.compile(
            r"generic config error|failed to parse .* as \w|duplicate key .* provided"
            r"|configuration key: .* is not valid",
            re.IGNORECASE,
        ),
        "Check the names and values of the storage options.",
    ),
    (PATH_REFUSED, 'Leave empty parts, "." and ".." out of the path.'),
    (
        # An answer to HEAD has no body that would say why.
        re.compile(r"error performing head \S+ in .{0,200}\b400 bad request", re.IGNORECASE),
        "Check that the credentials have not expired, and the region of the bucket.",
    ),
    (ACCESS_REFUSED, "Check the path, the credentials and what they allow."),
)


def classify_storage_error(text: str) -> tuple[str, str | None]:
    if DISK_FULL.search(text):
        return "storage_failed", FREE_SPACE
    for refused, hint in REFUSALS:
        if refused.search(text):
            return "storage_refused", hint
    return "storage_failed", None


def is_shown_frame(filename: str) -> bool:
    """Whether a frame is of the user's own code or of a library that it called, not of this engine, Polars, or Python's
    start-up.
    """
    return not is_internal_file(filename) and not filename.startswith("<frozen") and not is_pickle_file(filename)


def is_internal_file(filename: str) -> bool:
    return filename.startswith(OWN_FOLDER) or is_polars_file(filename)


def is_polars_file(filename: str) -> bool:
    return filename.startswith(POLARS_FOLDER)


def is_pickle_file(filename: str) -> bool:
    return f"{os.sep}cloudpickle{os.sep}" in filename or filename.endswith(
        (f"{os.sep}pickle.py", f"{os.sep}runpy.py", f"{os.sep}threading.py")
    )


# Polars appends where in its plan an exception of user code arose; the user's message ends before that.
POLARS_CONTEXT = re.compile(
    r"\n\n(This error occurred (in|with) the following (expression|context stack)|Resolved plan until failure):.*",
    re.DOTALL,
)


def read_message(error: BaseException) -> str:
    if isinstance(error, Failure):
        return error.detail
    text = text_of(error)
    if isinstance(error, SystemExit):
        return f"The code called sys.exit({text})."
    if not is_polars_error(error):
        text = POLARS_CONTEXT.sub("", text)
    return text or type(error).__name__


def format_traceback(error: BaseException, keep_own: bool) -> str | None:
    """The traceback with the frames of Polars and this engine left out, in this error and in those that led to it; None
    when none is left.
    """
    summary = traceback.TracebackException.from_exception(error, compact=True)
    seen: set[int] = set()
    pending: list[traceback.TracebackException | None] = [summary]
    frames = 0
    while pending:
        part = pending.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if not keep_own:
            part.stack = traceback.StackSummary.from_list(
                [frame for frame in part.stack if is_shown_frame(frame.filename)]
            )
        frames += len(part.stack)
        pending += [part.__cause__, part.__context__]
    return "".join(summary.format(chain=True)).rstrip() if frames else None


def clip(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def clip_middle(text: str, chars: int) -> str:
    """Keeps the beginning and the end: the user's entry and the error itself."""
    if len(text) <= chars:
        return text
    marker = "\n  ... (cut) ...\n"
    half = (chars - len(marker)) // 2
    return text[:half] + marker + text[-half:]
