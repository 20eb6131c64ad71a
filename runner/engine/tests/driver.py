"""Drives a real engine process over its pipes, as the agent does."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import polars as pl

SOURCE = Path(__file__).resolve().parent.parent / "src"
LENGTHS = struct.Struct("<II")
DEADLINE_SECONDS = 120.0

Message = dict[str, Any]


class EngineGone(Exception):
    """The engine ended while an answer was waited for."""


class Engine:
    """One engine process. Use as a context manager."""

    def __init__(self, env: dict[str, str] | None = None, cwd: str | None = None, prefix: tuple[str, ...] = ()) -> None:
        """Starts the process, with a command before it if one is given, and waits until it is ready."""
        to_engine, self._write = os.pipe()
        self._read, from_engine = os.pipe()
        # The engine expects its pipes at 3 and 4; the parent's own may have other numbers.
        script = f'exec 3<&{to_engine} 4>&{from_engine}; exec "$@" -u -m frazil_engine'
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("POLARS_")}
        environment = {**inherited, "PYTHONPATH": str(SOURCE), "RUST_BACKTRACE": "0", **(env or {})}
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *prefix, sys.executable],
            env=environment,
            cwd=cwd,
            pass_fds=(to_engine, from_engine),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(to_engine)
        os.close(from_engine)
        self.ready = self.receive()[0]

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(OSError):
            os.close(self._write)
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._read)

    def send(self, message: Message, body: bytes = b"") -> None:
        """Sends one message. The body of a `run` is one plan, unless the message names the sizes of its plans."""
        if message["type"] == "run" and isinstance(message.get("plan"), dict):
            message = {**message, "plan": {"bytes": [len(body)], **message["plan"]}}
        header = json.dumps(message).encode()
        self.send_raw(LENGTHS.pack(len(header), len(body)) + header + body)

    def send_raw(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._write, view) :]

    def close_input(self) -> None:
        os.close(self._write)
        self._write = os.open(os.devnull, os.O_WRONLY)

    def receive(self) -> tuple[Message, bytes]:
        header_bytes, body_bytes = LENGTHS.unpack(self._take(LENGTHS.size))
        return json.loads(self._take(header_bytes)), self._take(body_bytes)

    def _take(self, count: int) -> bytes:
        data = b""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(data) < count:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("The engine did not answer in time.")
            chunk = os.read(self._read, count - len(data))
            if not chunk:
                raise EngineGone(f"rc {self.process.wait()}: {self.process.stderr.read().decode()[-2000:]}")  # type: ignore[union-attr]
            data += chunk
        return data

    def converse(self, message: Message, body: bytes = b"", verb: str | None = "publish") -> Conversation:
        """Sends a message and gathers everything up to `idle`; every `staged` is answered with the verb."""
        self.send(message, body)
        talk = Conversation()
        while True:
            answer, answer_body = self.receive()
            talk.messages.append((answer, answer_body))
            if answer["type"] == "staged" and verb is not None:
                self.send({"type": verb, "taskId": answer["taskId"]})
            if answer["type"] == "idle":
                return talk


class Conversation:
    """What an engine said during one run."""

    def __init__(self) -> None:
        self.messages: list[tuple[Message, bytes]] = []

    def all(self, kind: str) -> list[Message]:
        return [message for message, _ in self.messages if message["type"] == kind]

    def one(self, kind: str) -> Message:
        found = self.all(kind)
        assert len(found) == 1, [message for message, _ in self.messages]
        return found[0]

    @property
    def head(self) -> bytes:
        self.one("done")
        return next(body for message, body in self.messages if message["type"] == "done")

    def log_lines(self, stream: str) -> list[str]:
        return [message["text"] for message in self.all("log") if message["stream"] == stream]


def serialize(frame: pl.LazyFrame) -> bytes:
    """Plan bytes. Polars tries `pickle` first, which would write a function of a script or test by its name alone; so
    it gets cloudpickle there.
    """
    plain = pickle.dumps
    pickle.dumps = cloudpickle.dumps  # type: ignore[assignment]
    try:
        return frame.serialize()
    finally:
        pickle.dumps = plain


def partition_by(*keys: str | pl.Expr, max_keys: int = 10_000) -> Message:
    """`partitionBy` of column names and expressions."""
    columns = []
    for key in keys:
        expr = None if isinstance(key, str) else base64.b64encode(key.meta.serialize()).decode()
        columns.append({"name": key if isinstance(key, str) else key.meta.output_name(), "expr": expr})
    return {"keys": columns, "maxKeys": max_keys}


def task(task_id: str = "task_1", attempt: int = 1, **fields: Any) -> Message:
    return {"taskId": task_id, "attempt": attempt, "frame": None, "keyToken": None, "keyPath": None, **fields}


def run_message(results: os.PathLike[str] | str, **fields: Any) -> Message:
    """A `run` message of one query; fields of `output` may be given by name."""
    output = {"format": "ipc", "destination": None, "mode": "error", "options": {}, "storageOptions": {}}
    for name in list(fields):
        if name in output:
            output[name] = fields.pop(name)
    return {
        "type": "run",
        "kind": "query",
        "jobId": "job_1",
        "tasks": [task()],
        "plan": {"kind": "dsl"},
        "engine": "auto",
        "output": output,
        "resultsLocation": str(results),
        "partitionBy": None,
        "splitState": None,
        "threads": 2,
        "memoryBytes": 4 << 30,
        "seed": None,
        "cwd": None,
        "headBytesMax": 65536,
        **fields,
    }
