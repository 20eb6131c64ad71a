"""The fake server's jobs: a state machine over the fake engine, and ways for a test to steer it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fake_engine

OUTPUT_DEFAULTS = {"format": "ipc", "destination": None, "mode": "error", "options": {}, "storageOptions": {}}
LOCAL = {"cloud": "local", "cpus": 2, "memoryGiB": 4, "gpus": 0, "clusterSize": 1}
FINAL = ("succeeded", "failed", "cancelled")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mint(prefix: str) -> str:
    return f"{prefix}_{''.join(random.choices('0123456789abcdefghjkmnpqrstvwxyz', k=26))}"


class Job:
    """One job with its tasks. All fields are guarded by the store's condition."""

    def __init__(self, spec: dict[str, Any], mode: str) -> None:
        self.spec = spec
        self.output = {**OUTPUT_DEFAULTS, **spec.get("output", {})}
        self.tasks: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.wire: dict[str, Any] = {
            "id": mint("job"),
            "name": spec.get("name"),
            "mode": mode,
            "status": "queued",
            "phase": "waiting for a slot",
            "user": "tester",
            "labels": spec.get("labels", {}),
            "shape": {**LOCAL},
            "clusterId": spec.get("clusterId"),
            "engine": spec.get("engine", "auto"),
            "polars": spec["client"]["polars"],
            "python": spec["client"]["python"],
            "output": {name: self.output[name] for name in ("format", "destination", "mode", "options")},
            "partitionBy": [key["name"] for key in spec["partitionBy"]["keys"]] if spec.get("partitionBy") else None,
            "priority": spec.get("priority", 50),
            "counts": {},
            "logLines": 0,
            "error": None,
            "retryOf": None,
            "createdAt": now(),
            "startedAt": None,
            "finishedAt": None,
            "revision": 0,
            "result": None,
        }
        self.count()

    @property
    def id(self) -> str:
        return self.wire["id"]

    @property
    def final(self) -> bool:
        return self.wire["status"] in FINAL

    def count(self) -> None:
        statuses = [task["status"] for task in self.tasks]
        counts = {name: statuses.count(name) for name in ("queued", "running", *FINAL)}
        self.wire["counts"] = {"total": len(statuses), **counts}
        self.wire["logLines"] = len(self.logs)
        self.wire["revision"] += 1

    def add_task(self, lf: Any, frame: int | None, key: dict[str, str | None] | None) -> None:
        task = {
            "id": mint("task"),
            "lf": lf,
            "frame": frame,
            "key": key,
            "status": "queued",
            "error": None,
            "result": None,
        }
        self.tasks.append(task)

    def add_log(self, task_id: str | None, text: str, stream: str = "stdout") -> None:
        line = {"id": str(len(self.logs) + 1), "at": now(), "taskId": task_id, "attempt": 1}
        self.logs.append({**line, "stream": stream, "text": text})


class Jobs:
    """The store. `gate` holds jobs back between their start and their first query, until a test opens it."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.changed = threading.Condition()
        self.by_id: dict[str, Job] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.phase: str | None = None

    def submit(self, spec: dict[str, Any], plans: list[str], mode: str) -> Job:
        job = Job(spec, mode)
        with self.changed:
            self.by_id[job.id] = job
        threading.Thread(target=self.run, args=(job, plans), daemon=True).start()
        return job

    def run(self, job: Job, plans: list[str]) -> None:
        try:
            opened = {plan: fake_engine.open_plan(plan) for plan in set(plans)}
            self.update(job, status="running", phase=self.phase, startedAt=now())
            self.make_tasks(job, [opened[plan] for plan in plans])
        except Exception as error:
            info = {"code": "invalid_key", "message": str(error), "type": None, "module": None, "traceback": None}
            return self.finish(job, "failed", info)
        self.update(job)
        self.gate.wait(30)
        for task in job.tasks:
            if task["status"] == "queued" and not job.final:
                self.run_task(job, task)
        if not job.final:
            self.settle(job)
        return None

    def make_tasks(self, job: Job, frames: list[Any]) -> None:
        keys = (job.spec.get("partitionBy") or {}).get("keys")
        for index, lf in enumerate(frames):
            frame = index if job.wire["mode"] == "many" else None
            if keys is None:
                job.add_task(lf, frame, None)
                continue
            try:
                split = self.split(job, lf, keys)
            except Exception as error:  # A failed split is one failed task; the other frames go on.
                job.add_task(lf, frame, None)
                job.tasks[-1].update(status="failed", error={"code": "invalid_key", "message": str(error)})
                continue
            for key, part in split:
                job.add_task(part, frame, key)

    def split(self, job: Job, lf: Any, keys: list[dict[str, Any]]) -> list[tuple[dict[str, str | None], Any]]:
        split = fake_engine.split_keys(lf, keys)
        most = job.spec["partitionBy"].get("maxKeys", 10_000)
        if len(split) > most:
            raise ValueError(f"{len(split)} keys, and at most {most} are allowed: raise max_keys")
        return split

    def run_task(self, job: Job, task: dict[str, Any]) -> None:
        parts = [] if task["frame"] is None else [f"frame={task['frame']}"]
        parts += [f"{name}={value}" for name, value in (task["key"] or {}).items()]
        with self.changed:
            task["status"] = "running"
        printed: list[str] = []
        try:
            path = fake_engine.output_file(job.output, self.results / job.id, task["id"], parts)
            result, printed = fake_engine.run_query(task["lf"], job.output, path)
        except fake_engine.Failed as failed:
            status, fields = "failed", {"error": failed.info}
        else:
            status, fields = (
                "succeeded",
                {"result": {"taskId": task["id"], "frame": task["frame"], "key": task["key"], **result}},
            )
        with self.changed:
            if task["status"] == "running":
                task.update(fields, status=status)
            if status == "failed" and job.spec.get("onFailure") == "cancel":
                for other in job.tasks:
                    other["status"] = "cancelled" if other["status"] == "queued" else other["status"]
            for text in printed:
                job.add_log(task["id"], text)
        self.update(job)

    def settle(self, job: Job) -> None:
        groups = self.failures(job)
        if groups:
            return self.finish(job, "failed", self.summary(job, groups))
        if job.wire["mode"] == "single":
            job.wire["result"] = job.tasks[0]["result"]
        return self.finish(job, "succeeded", None)

    def summary(self, job: Job, groups: list[dict[str, Any]]) -> dict[str, Any]:
        """The job's error: the task's where there is one, else the most common one in other words."""
        error = max(groups, key=lambda group: group["count"])["error"]
        failed, total = sum(group["count"] for group in groups), len(job.tasks)
        message = f"{failed} of {total} tasks failed; one of them with: {error['message']}"
        return error if total == 1 else {**error, "message": message}

    def finish(self, job: Job, status: str, error: dict[str, Any] | None) -> None:
        self.update(job, status=status, error=error, phase=None, finishedAt=now())

    def update(self, job: Job, **fields: Any) -> None:
        with self.changed:
            job.wire.update(fields)
            job.count()
            self.changed.notify_all()

    def wait(self, job: Job, seconds: float, revision: int | None = None) -> None:
        deadline = time.monotonic() + seconds
        with self.changed:
            while not job.final and (revision is None or job.wire["revision"] <= revision):
                left = deadline - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    return

    def cancel(self, job: Job) -> None:
        with self.changed:
            if job.final:
                return
            for task in job.tasks:
                if task["status"] not in FINAL:
                    task["status"] = "cancelled"
        self.finish(job, "cancelled", None)

    def retry(self, job: Job) -> Job | None:
        again = [task for task in job.tasks if task["status"] in ("failed", "cancelled")]
        if not job.final or not again:
            return None
        new = Job(job.spec, job.wire["mode"])
        new.wire["retryOf"] = job.id
        for task in again:
            new.add_task(task["lf"], task["frame"], task["key"])
        with self.changed:
            self.by_id[new.id] = new

        def rerun() -> None:
            for task in new.tasks:
                self.run_task(new, task)
            self.settle(new)

        threading.Thread(target=rerun, daemon=True).start()
        return new

    def failures(self, job: Job) -> list[dict[str, Any]]:
        failed = [task for task in job.tasks if task["status"] == "failed"]
        failed.sort(key=lambda task: (task["error"].get("type") or "", task["error"]["message"]))
        groups = []
        for _, alike in itertools.groupby(
            failed, key=lambda task: (task["error"].get("type"), task["error"]["message"])
        ):
            tasks = list(alike)
            frames = [task["frame"] for task in tasks if task["frame"] is not None][:20]
            groups.append(
                {"error": tasks[0]["error"], "count": len(tasks), "exampleTaskId": tasks[0]["id"], "frames": frames}
            )
        return groups
