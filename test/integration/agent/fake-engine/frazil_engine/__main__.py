"""A plan is JSON: a list of steps, each `[verb, argument]`, carried out in order for every task of its run."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LENGTHS = struct.Struct("<II")
USAGE = {"wallMs": 1.0, "cpuMs": 1.0}
HELD: list[Any] = []
# Of the run that is under way.
PLAN_KIND: list[str] = []


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


Task = dict[str, Any]
# Each carries out one step, and returns whether it answered for the task.
VERBS: dict[str, Callable[[Task, Any], bool]] = {}


def verb(name: str) -> Callable[[Callable[[Task, Any], object]], Callable[[Task, Any], object]]:
    def register(step: Callable[[Task, Any], object]) -> Callable[[Task, Any], object]:
        VERBS[name] = lambda task, argument: step(task, argument) is True
        return step

    return register


def write_log(task: Task, text: str) -> None:
    send({"type": "log", "taskId": task["taskId"], "stream": "stdout", "text": text})


VERBS["print"] = lambda task, text: bool(write_log(task, text))
VERBS["print-lines"] = lambda task, count: any(write_log(task, "x" * 999) for _ in range(count))
VERBS["raw"] = lambda _task, text: os.write(2, text.encode("latin-1")) < 0
VERBS["python"] = lambda _task, python: bool(send({"type": "opened", "python": python}))
VERBS["exit"] = lambda _task, code: os._exit(code)
VERBS["segfault"] = lambda _task, _: bool(ctypes.string_at(0))
VERBS["silent"] = lambda _task, _: True
VERBS["touch"] = lambda _task, path: open(path, "w").close() is True


@verb("progress")
def progress(task: Task, phase: str) -> None:
    send({"type": "progress", "taskId": task["taskId"], "phase": phase})


@verb("allocate")
def allocate(_task: Task, mebibytes: int) -> None:
    block = bytearray(mebibytes << 20)
    block[::4096] = b"x" * len(block[::4096])
    HELD.append(block)


@verb("allocate-in-child")
def allocate_in_child(_task: Task, mebibytes: int) -> None:
    start_child(
        f"import time; block = bytearray({mebibytes} << 20); block[::4096] = b'x' * len(block[::4096]); time.sleep(600)"
    )


@verb("fork-sleepers")
def fork_sleepers(_task: Task, count: int) -> None:
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)


@verb("child")
def child(_task: Task, _: None) -> None:
    HELD.append(start_child("import time; time.sleep(600)"))
    print(HELD[-1], flush=True)


@verb("daemon")
def daemon(_task: Task, _: None) -> None:
    """Leaves the session, and loses its parent."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(1, f"{start_child('import time; time.sleep(600)')}\n".encode())
        os._exit(0)
    os.waitpid(pid, 0)


@verb("garbage")
def garbage(_task: Task, text: str) -> None:
    os.write(4, text.encode("latin-1"))
    time.sleep(600)


@verb("wait-for")
def wait_for(_task: Task, path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


@verb("linger")
def linger(_task: Task, milliseconds: int) -> None:
    """Long enough to be measured."""
    time.sleep(milliseconds / 1000)


@verb("spin")
def spin(_task: Task, _: None) -> None:
    """Deaf to the end of its pipe, as native code in the middle of a query is."""
    while True:
        pass


@verb("hold-until")
def hold_until(_task: Task, path: str) -> None:
    """Until the file is there; says in a file beside it that it waits."""
    open(f"{path}.waiting", "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)


@verb("touch")
def touch(_task: Task, path: str) -> None:
    open(path, "w").close()


@verb("of-kind")
def of_kind(task: Task, kind: str) -> bool:
    """Fails where its plan was said to be of another kind."""
    if [kind] == PLAN_KIND:
        return False
    fail(task, "invalid_plan", f"This is {kind}, not {PLAN_KIND}.")
    return True


@verb("head")
def head(task: Task, size: int) -> bool:
    done(task, 1, b"h" * size)
    return True


@verb("stage")
def stage(task: Task, rows: int) -> bool:
    send({"type": "staged", "taskId": task["taskId"], "manifest": {"rows": rows}})
    while True:
        message, _ = receive()
        if message.get("taskId") != task["taskId"]:
            continue
        if message["type"] == "abandon":
            fail(task, "stale_attempt", "abandoned")
        else:
            done(task, rows)
        return True


@verb("report")
def report(task: Task, _: None) -> bool:
    """Tells what the process is as the message of a failure."""
    temp_dir = os.environ["TMPDIR"]
    with open("/proc/self/oom_score_adj") as score:
        oom = score.read().strip()
    about = {
        "uid": os.getuid(),
        "env": dict(os.environ),
        "oom": oom,
        "canWrite": os.access(temp_dir, os.W_OK),
        "canReadIdentity": os.access(os.path.join(temp_dir, "..", "..", "identity.json"), os.R_OK),
    }
    fail(task, "query_failed", json.dumps(about))
    return True


def run(message: dict[str, Any], body: bytes) -> None:
    sizes = message["plan"]["bytes"]
    PLAN_KIND[:] = [message["plan"]["kind"]]
    if len(sizes) == 1:
        run_plan(json.loads(body), message["tasks"])
        return
    at = 0
    for task, size in zip(message["tasks"], sizes, strict=True):
        run_plan(json.loads(body[at : at + size]), [task])
        at += size


def run_plan(steps: list[tuple[str, Any]], tasks: list[Task]) -> None:
    for task in tasks:
        for name, argument in steps:
            if VERBS[name](task, argument):
                break
        else:
            done(task, os.getpid())


def sweep(message: dict[str, Any]) -> None:
    """Tells what it was asked to remove, and which process was asked, as the error; or dies of it."""
    if message["resultsLocation"] == "/deadly":
        os._exit(9)
    about = {"pid": os.getpid(), **message}
    error = None if message["resultsLocation"] == "/clean" else {"code": "storage_failed", "message": json.dumps(about)}
    send({"type": "swept", "error": error})


def main() -> None:
    if "FRAZIL_PARENT_PID" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != int(os.environ["FRAZIL_PARENT_PID"]):
            os._exit(0)
    if "FAIL_TO_START" in os.environ:
        sys.exit("this engine does not start")
    while not os.path.exists(os.environ.get("START_WHEN", "/")):
        time.sleep(0.005)
    send({"type": "ready", "python": "3.11", "polars": "2.1.0", "pid": os.getpid()})
    while True:
        message, body = receive()
        if message["type"] == "run":
            run(message, body)
            time.sleep(float(os.environ.get("IDLE_AFTER_SECONDS", "0")))
            send({"type": "idle"})
        elif message["type"] == "republish":
            done(message["task"], message["manifest"]["rows"])
            send({"type": "idle"})
        elif message["type"] == "sweep":
            sweep(message)
            send({"type": "idle"})
        elif message["type"] == "exit":
            return


main()
