"""Frames and messages between agent and engine, as contracts/src/engine-protocol.ts has them."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import struct
import threading
from dataclasses import dataclass, field, replace
from typing import Any

from frazil_engine.limits import (
    ENGINE_EXIT_OF_CLOSED_FILES,
    ENGINE_FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    KEYS_PER_RUN_MAX,
    QUERIES_PER_RUN_MAX,
)

LENGTHS = struct.Struct("<II")
JSON_WRITER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
Json = Any
Message = dict[str, Any]


class ProtocolFault(Exception):
    """The other side said something that the protocol does not have."""


@dataclass(frozen=True)
class Task:
    """One attempt at one task."""

    task_id: str
    attempt: int
    frame: int | None
    key_token: str | None
    key_path: str | None


@dataclass(frozen=True)
class Output:
    """Where a result goes, and how it is written."""

    format: str
    destination: str | None
    mode: str
    options: dict[str, Json]
    storage_options: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Key:
    """A key column: by name, or by a serialised expression over source columns."""

    name: str
    expr: bytes | None


@dataclass(frozen=True)
class PartitionBy:
    """The key columns of a partitioned job."""

    keys: list[Key]
    max_keys: int


@dataclass(frozen=True)
class Run:
    """One plan to run, for one task or for those of its keys."""

    kind: str
    job_id: str
    tasks: list[Task]
    plan_kind: str
    plan: bytes = field(repr=False)
    engine: str
    output: Output
    results_location: str
    partition_by: PartitionBy | None
    split_state: Json
    threads: int
    memory_bytes: int
    seed: int | None
    cwd: str | None
    head_bytes_max: int


@dataclass(frozen=True)
class Republish:
    """One `republish` message."""

    job_id: str
    task: Task
    manifest: dict[str, Json]
    storage_options: dict[str, str] = field(repr=False)
    cwd: str | None


@dataclass(frozen=True)
class Sweep:
    """One `sweep` message."""

    job_id: str
    # Task and number of attempts that lost.
    attempts: list[tuple[str, int]]
    destination: str | None
    format: str
    results_location: str
    storage_options: dict[str, str] = field(repr=False)
    cwd: str | None


def _identities(*fds: int) -> list[tuple[int, int]] | None:
    try:
        return [(found.st_dev, found.st_ino) for found in map(os.fstat, fds)]
    except OSError:
        return None


class Channel:
    """Reads frames from one pipe and writes frames to another. Writing is safe from every thread of the process that
    made it, and of no other.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._lock = threading.Lock()
        self._pipes = _identities(read_fd, write_fd)
        os.set_inheritable(read_fd, False)
        os.set_inheritable(write_fd, False)
        os.register_at_fork(after_in_child=self._close_in_child)

    def _close_in_child(self) -> None:
        self._lock = threading.Lock()
        for fd in (self._read_fd, self._write_fd):
            os.close(fd)
        self._write_fd = -1

    @property
    def is_open(self) -> bool:
        """False in a forked child, which must not speak."""
        return self._write_fd >= 0

    def send(self, message: Message, body: bytes = b"") -> None:
        """Writes one frame whole."""
        if not self.is_open:
            return
        header = JSON_WRITER.encode(message).encode("utf-8", "replace")
        data = LENGTHS.pack(len(header), len(body)) + header + body
        with self._lock:
            self._check()
            view = memoryview(data)
            while view:
                view = view[os.write(self._write_fd, view) :]

    def receive(self) -> tuple[Message, bytes] | None:
        """Reads one frame; None at the end of the pipe."""
        self._check()
        lengths = self._read(LENGTHS.size)
        if lengths is None:
            return None
        header_bytes, body_bytes = LENGTHS.unpack(lengths)
        if header_bytes > HEADER_BYTES_MAX or header_bytes + body_bytes > ENGINE_FRAME_BYTES_MAX:
            raise ProtocolFault(
                f"A frame of {header_bytes} + {body_bytes} bytes is over the limit of {ENGINE_FRAME_BYTES_MAX} bytes."
            )
        header = self._read(header_bytes)
        body = self._read(body_bytes) if body_bytes else b""
        if header is None or body is None:
            return None
        try:
            message = json.loads(header)
        except ValueError as error:
            raise ProtocolFault(f"The header of a frame is not JSON: {error}") from None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ProtocolFault("The header of a frame is not a message.")
        return message, body

    def _check(self) -> None:
        """User code may close files that it did not open, and open its own in their place: those are not written to."""
        if _identities(self._read_fd, self._write_fd) != self._pipes:
            os._exit(ENGINE_EXIT_OF_CLOSED_FILES)

    def _read(self, count: int) -> bytes | None:
        chunks = []
        while count:
            chunk = os.read(self._read_fd, min(count, 1 << 20))
            if not chunk:
                return None
            chunks.append(chunk)
            count -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


TASKS_PER_RUN_MAX = {"query": QUERIES_PER_RUN_MAX, "split": 1, "key": KEYS_PER_RUN_MAX}


def read_runs(message: Message, body: bytes) -> list[Run]:
    """Checks a `run` message and gives it its types: one run for each plan in the body."""
    kind = choose(message, "kind", tuple(TASKS_PER_RUN_MAX))
    tasks = [read_task(task) for task in take(message, "tasks", list)]
    sizes = take(take(message, "plan", dict), "bytes", list)
    if not 0 < len(tasks) <= TASKS_PER_RUN_MAX[kind]:
        raise ProtocolFault(f"A {kind} run can't have {len(tasks)} tasks.")
    if len(sizes) != (len(tasks) if kind == "query" else 1) or sum(sizes) != len(body):
        raise ProtocolFault(f"The plans of a {kind} run are not those of its tasks.")
    if len(sizes) == 1:
        return [read_run(message, kind, tasks, body)]
    first = read_run(message, kind, tasks[:1], body[: sizes[0]])
    runs = [first]
    at = sizes[0]
    for task, size in zip(tasks[1:], sizes[1:], strict=True):
        runs.append(replace(first, tasks=[task], plan=body[at : at + size]))
        at += size
    return runs


def read_run(message: Message, kind: str, tasks: list[Task], plan: bytes) -> Run:
    output = take(message, "output", dict)
    return Run(
        kind=kind,
        job_id=take(message, "jobId", str),
        tasks=tasks,
        plan_kind=choose(take(message, "plan", dict), "kind", ("dsl", "sql")),
        plan=plan,
        engine=choose(message, "engine", ("auto", "streaming", "in-memory", "gpu")),
        output=Output(
            format=choose(output, "format", ("parquet", "csv", "ipc", "ndjson")),
            destination=take(output, "destination", str, optional=True),
            mode=choose(output, "mode", ("error", "overwrite", "append")),
            options=take(output, "options", dict),
            storage_options=take_strings(output, "storageOptions"),
        ),
        results_location=take(message, "resultsLocation", str),
        partition_by=read_partition_by(take(message, "partitionBy", dict, optional=True)),
        split_state=message.get("splitState"),
        threads=take(message, "threads", int),
        memory_bytes=take(message, "memoryBytes", int),
        seed=take(message, "seed", int, optional=True),
        cwd=take(message, "cwd", str, optional=True),
        head_bytes_max=take(message, "headBytesMax", int),
    )


def read_republish(message: Message) -> Republish:
    """Checks a `republish` message and gives it its types."""
    return Republish(
        job_id=take(message, "jobId", str),
        task=read_task(message.get("task")),
        manifest=take(message, "manifest", dict),
        storage_options=take_strings(message, "storageOptions"),
        cwd=take(message, "cwd", str, optional=True),
    )


def read_sweep(message: Message) -> Sweep:
    """Checks a `sweep` message and gives it its types. Its ids become names of what is removed: they are nothing but
    names.
    """
    output = take(message, "output", dict)
    sweep = Sweep(
        job_id=take(message, "jobId", str),
        attempts=[(take(one, "taskId", str), take(one, "attempt", int)) for one in take(message, "attempts", list)],
        destination=take(output, "destination", str, optional=True),
        format=choose(output, "format", ("parquet", "csv", "ipc", "ndjson")),
        results_location=take(message, "resultsLocation", str),
        storage_options=take_strings(output, "storageOptions"),
        cwd=take(message, "cwd", str, optional=True),
    )
    for name in (sweep.job_id, *(task_id for task_id, _ in sweep.attempts)):
        if ID.fullmatch(name) is None:
            raise ProtocolFault("An id of a sweep is not an id.")
    return sweep


def read_task(value: Json) -> Task:
    if not isinstance(value, dict):
        raise ProtocolFault("A task is not an object.")
    return Task(
        task_id=take(value, "taskId", str),
        attempt=take(value, "attempt", int),
        frame=take(value, "frame", int, optional=True),
        key_token=take(value, "keyToken", str, optional=True),
        key_path=take(value, "keyPath", str, optional=True),
    )


def read_partition_by(value: Message | None) -> PartitionBy | None:
    if value is None:
        return None
    keys = []
    for key in take(value, "keys", list):
        encoded = take(key, "expr", str, optional=True)
        try:
            expr = None if encoded is None else base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ProtocolFault("A key expression is not base64.") from None
        keys.append(Key(name=take(key, "name", str), expr=expr))
    if not keys:
        raise ProtocolFault("partitionBy names no key.")
    return PartitionBy(keys=keys, max_keys=take(value, "maxKeys", int))


def take(message: Message, name: str, kind: type, optional: bool = False) -> Any:
    """A field of the given type; a missing or null one is None where it is optional."""
    value = message.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolFault(f"{name} of a message is not of type {kind.__name__}.")
    return value


def choose(message: Message, name: str, choices: tuple[str, ...]) -> str:
    value = message.get(name)
    if value not in choices:
        raise ProtocolFault(f"{name} of a message is none of {', '.join(choices)}.")
    return value


def take_strings(message: Message, name: str) -> dict[str, str]:
    value = take(message, name, dict)
    if not all(isinstance(text, str) for text in value.values()):
        raise ProtocolFault(f"{name} of a message holds something that is not text.")
    return value
