"""What becomes of a task: it is done, it failed, or its output lies staged until the agent decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from frazil_engine import carriers, destinations, kept
from frazil_engine.destinations import Staging
from frazil_engine.errors import Failure, clip, describe_error, secret_values
from frazil_engine.limits import ERROR_MESSAGE_CHARS_MAX
from frazil_engine.logs import TaskLog, list_warnings
from frazil_engine.protocol import Message, Republish, Run, Task
from frazil_engine.results import ResultFile
from frazil_engine.session import Session
from frazil_engine.sinks import Written, check_options, check_schema, choose_engine, write_result
from frazil_engine.user_code import last_exception, watch_loading


@dataclass(frozen=True)
class Answer:
    """A task's last message, without its usage, and the head."""

    message: Message
    head: bytes = b""


@dataclass(frozen=True)
class Staged:
    """An output that waits for `publish` or `abandon`."""

    task: Task
    staging: Staging
    manifest: dict[str, Any]
    written: Written
    warnings: list[dict[str, str]]


Outcome = Answer | Staged


def write_task(run: Run, task: Task, frame: pl.LazyFrame, has_python: bool, log: TaskLog) -> Outcome:
    """Runs the query and writes its result: to its place among the results, or staged for the destination. Raises what
    the query raises.
    """
    last_exception.forget()
    # Polars loads the functions of expressions only now.
    with watch_loading(expect_python if has_python else refuse_python):
        return run_and_write(run, task, frame, has_python, log)


def expect_python() -> None:
    """The agent knows of this plan's Python."""


def refuse_python() -> None:
    raise Failure("invalid_plan", "Python is hidden in this plan in a form that Polars does not write.")


def run_and_write(run: Run, task: Task, frame: pl.LazyFrame, has_python: bool, log: TaskLog) -> Outcome:
    output = run.output
    options = check_options(output.format, output.options)
    engine = choose_engine(run.engine)

    is_result_file = output.destination is None
    is_light = kept.is_light(run)
    # Asked for its schema first, Polars works out a plan twice: a short one of its own nodes is looked at afterwards.
    if has_python or not is_light:
        check_schema(frame.collect_schema(), output.format, may_carry=is_result_file)
    if is_light:
        collected = frame.collect(engine="in-memory")
        check_schema(collected.schema, output.format, may_carry=True)
        collected = carriers.encode_rows(collected)
        whole = kept.keep_whole(collected, run.head_bytes_max)
        if whole is not None:
            return done(task, [], whole, list_warnings(log))
        frame, engine = collected.lazy(), "in-memory"
    elif is_result_file and output.format == "ipc":
        frame = carriers.encode_frame(frame)

    def write(target: Any) -> Written:
        return write_result(frame, target, output.format, options, engine, run.head_bytes_max)

    if is_result_file:
        return keep_result(ResultFile(run, task), task, write, log)
    return stage(Staging(run, task), task, write, log)


def keep_result(file: ResultFile, task: Task, write: Callable[[Any], Written], log: TaskLog) -> Answer:
    try:
        written = write(file.target)
        file.keep()
    except BaseException:
        file.drop()
        raise
    return done(task, [file.location], written, list_warnings(log))


def stage(staging: Staging, task: Task, write: Callable[[Any], Written], log: TaskLog) -> Staged:
    try:
        written = write(staging.target)
        warnings = list_warnings(log)
        return Staged(task, staging, staging.seal(written, warnings), written, warnings)
    except BaseException:
        staging.abandon()
        raise


def settle(staged: Staged, verb: str, secrets: set[str], storage_options: dict[str, str]) -> Answer:
    """Does with a staged output what the agent has decided."""
    try:
        if verb == "abandon":
            staged.staging.abandon()
            raise Failure("stale_attempt", "This attempt lost the task; what it had staged was removed.")
        location = destinations.publish(staged.manifest, storage_options)
    except BaseException as error:
        answer = fail(staged.task, error, secrets)
        # The attempt is fenced: what may be tried again is finished from these very files.
        if verb == "publish" and not answer.message["retryable"]:
            staged.staging.abandon()
        return answer
    return done(staged.task, [location], staged.written, staged.warnings)


def republish(session: Session, message: Republish) -> Answer:
    """Finishes the publishing that another engine began."""
    try:
        location = destinations.publish(message.manifest, message.storage_options)
        written, warnings = destinations.describe_published(message.manifest, location, message.storage_options)
    except BaseException as error:
        return fail(message.task, error, secret_values(message.storage_options))
    return done(message.task, [location], written, warnings)


def done(task: Task, locations: list[str], written: Written, warnings: list[dict[str, str]]) -> Answer:
    result = {
        "locations": locations,
        "schema": [{"name": name, "dtype": dtype} for name, dtype in written.schema],
        "rows": written.rows,
        "bytes": written.bytes,
        "warnings": warnings,
    }
    return Answer({"type": "done", "taskId": task.task_id, "result": result}, written.head)


def fail(task: Task, error: BaseException, secrets: set[str]) -> Answer:
    """The answer of a task that failed. To look at an exception of user code runs user code, which may fail in turn;
    the task is answered all the same.
    """
    try:
        info, retryable = describe_error(error, secrets)
    except BaseException as failed:
        text = f"{type(error).__name__}, which can't be described: {type(failed).__name__}"
        info, retryable = {"code": "internal", "message": clip(text, ERROR_MESSAGE_CHARS_MAX)}, False
    return Answer({"type": "failed", "taskId": task.task_id, "error": info, "retryable": retryable})
