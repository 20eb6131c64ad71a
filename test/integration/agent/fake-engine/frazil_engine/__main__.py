"""The plan is JSON: a list of steps, each `[verb, argument]`, carried out in order for every task of the run."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import time
from typing import Any

LENGTHS = struct.Struct("<II")
USAGE = {"wallMs": 1.0, "cpuMs": 1.0}
HELD: list[Any] = []


def send(message: dict[str, Any], body: bytes = b"") -> None:
    header = json.dumps(message).encode()
    data = LENGTHS.pack(len(header), len(body)) + header + body
    while data:
        data = data[os.write(4, data) :]


def read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = os.read(3, count - len(data))
        if not chunk:
            os._exit(0)
        data += chunk
    return data


def receive() -> tuple[dict[str, Any], bytes]:
    header_bytes, body_bytes = LENGTHS.unpack(read(LENGTHS.size))
    return json.loads(read(header_bytes)), read(body_bytes)


def result(task: dict[str, Any], rows: int) -> dict[str, Any]:
    return {"locations": [f"/results/{task['taskId']}"], "schema": [], "rows": rows, "bytes": 0, "warnings": []}


def done(task: dict[str, Any], rows: int, head: bytes = b"") -> None:
    send({"type": "done", "taskId": task["taskId"], "result": result(task, rows), "usage": USAGE}, head)


def fail(task: dict[str, Any], code: str, message: str) -> None:
    error = {"code": code, "message": message}
    send({"type": "failed", "taskId": task["taskId"], "error": error, "retryable": False, "usage": USAGE})


def start_child(code: str, **options: Any) -> int:
    return subprocess.Popen([sys.executable, "-c", code], **options).pid


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def stage(task: dict[str, Any], rows: int) -> bool:
    """True when the task was published, False when it was abandoned."""
    send({"type": "staged", "taskId": task["taskId"], "manifest": {"rows": rows}})
    while True:
        message, _ = receive()
        if message.get("taskId") != task["taskId"]:
            continue
        if message["type"] == "abandon":
            fail(task, "stale_attempt", "abandoned")
            return False
        done(task, rows)
        return True


def act(task: dict[str, Any], verb: str, argument: Any) -> bool:
    """Carries out one step. True when it answered for the task."""
    if verb == "print":
        send({"type": "log", "taskId": task["taskId"], "stream": "stdout", "text": argument})
    elif verb == "print-lines":
        for _ in range(argument):
            send({"type": "log", "taskId": task["taskId"], "stream": "stdout", "text": "x" * 999})
    elif verb == "raw":
        os.write(2, argument.encode("latin-1"))
    elif verb == "python":
        send({"type": "opened", "python": argument})
    elif verb == "progress":
        send({"type": "progress", "taskId": task["taskId"], "phase": argument})
    elif verb == "allocate":
        block = bytearray(argument * 1024 * 1024)
        block[::4096] = b"x" * len(block[::4096])
        HELD.append(block)
    elif verb == "allocate-in-child":
        code = f"import time; block = bytearray({argument} << 20); block[::4096] = b'x' * len(block[::4096]); time.sleep(600)"
        start_child(code)
    elif verb == "fork-sleepers":
        for _ in range(argument):
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
    elif verb == "child":
        HELD.append(start_child("import time; time.sleep(600)"))
        print(HELD[-1], flush=True)
    elif verb == "daemon":
        # Leaves the session, and loses its parent.
        pid = os.fork()
        if pid == 0:
            os.setsid()
            child = start_child("import time; time.sleep(600)")
            os.write(1, f"{child}\n".encode())
            os._exit(0)
        os.waitpid(pid, 0)
    elif verb == "segfault":
        ctypes.string_at(0)
    elif verb == "signal":
        os.kill(os.getpid(), getattr(signal, argument))
        time.sleep(600)
    elif verb == "exit":
        os._exit(argument)
    elif verb == "garbage":
        os.write(4, argument.encode("latin-1"))
        time.sleep(600)
    elif verb == "wait-for":
        wait_for(argument)
    elif verb == "linger":
        # Long enough to be measured.
        time.sleep(argument / 1000)
    elif verb == "spin":
        # Deaf to the end of its pipe, as native code in the middle of a query is.
        while True:
            pass
    elif verb == "report":
        fail(task, "query_failed", json.dumps(describe(argument)))
        return True
    elif verb == "stage":
        stage(task, argument)
        return True
    elif verb == "fail":
        fail(task, "query_failed", argument)
        return True
    elif verb == "head":
        done(task, 1, b"h" * argument)
        return True
    elif verb == "silent":
        return True
    else:
        raise ValueError(verb)
    return False


def describe(message: dict[str, Any] | None) -> dict[str, Any]:
    return {"pid": os.getpid(), "env": dict(os.environ), "oom": open("/proc/self/oom_score_adj").read().strip(), "cwd": os.getcwd()}


def run(message: dict[str, Any], body: bytes) -> None:
    steps = json.loads(body)
    for task in message["tasks"]:
        for verb, argument in steps:
            if act(task, verb, argument):
                break
        else:
            done(task, os.getpid())


def main() -> None:
    if "FRAZIL_PARENT_PID" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != int(os.environ["FRAZIL_PARENT_PID"]):
            os._exit(0)
    if "FAIL_TO_START" in os.environ:
        sys.exit("this engine does not start")
    send({"type": "ready", "python": "3.11", "polars": "2.1.0", "pid": os.getpid()})
    while True:
        message, body = receive()
        if message["type"] == "run":
            run(message, body)
            send({"type": "idle"})
        elif message["type"] == "republish":
            done(message["task"], message["manifest"]["rows"])
            send({"type": "idle"})
        elif message["type"] == "exit":
            return


main()
