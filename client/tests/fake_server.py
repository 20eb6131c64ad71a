"""An HTTP server with the shapes of the real API, in this process. It refuses what the contract does not allow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import contract_checks
import polars as pl
from contract_checks import ShapeError
from fake_jobs import FINAL, LOCAL, Job, Jobs, mint, now

TOKEN = "frz_test_0123456789"


class Refusal(Exception):
    """Becomes a problem document."""

    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {
            "type": f"urn:frazil:error:{code}",
            "title": code,
            "status": status,
            "code": code,
            "detail": detail,
            **more,
        }


class FakeServer:
    """Starts on a free port. `requests` lists what came in; `faults` are taken one by one, by one request each."""

    def __init__(self, directory: Path) -> None:
        self.jobs = Jobs(directory / "results")
        self.clusters: dict[str, dict[str, Any]] = {}
        self.cluster_status = "ready"
        self.offered: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.faults: list[Callable[[Handler], bool]] = []
        self.seen_keys: dict[str, str] = {}
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"fake": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.jobs.gate.set()
        self.http.shutdown()
        self.http.server_close()

    def paths(self) -> list[str]:
        return [f"{request['method']} {request['path']}" for request in self.requests]

    def job(self, job_id: str) -> Job:
        job = self.jobs.by_id.get(job_id)
        if job is None:
            raise Refusal(404, "not_found", f"there is no job {job_id}")
        return job

    def submitted(self) -> list[Job]:
        return list(self.jobs.by_id.values())


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    fake: FakeServer
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Not into the tests' output."""

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.queries = parse_qs(parts.query)
        body = self.read_body()
        with self.fake.lock:
            entry = {
                "method": self.command,
                "path": parts.path,
                "target": self.path,
                "query": self.query,
                "connection": self.client_address,
            }
            self.fake.requests.append({**entry, "headers": dict(self.headers.items()), "size": len(body)})
            fault = self.fake.faults.pop(0) if self.fake.faults else None
        if fault is not None and fault(self):
            return
        try:
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "unauthenticated", "the token is not known")
            self.route([part for part in parts.path.split("/") if part], body)
        except Refusal as refusal:
            self.answer(refusal.status, refusal.body, "application/problem+json")
        except ShapeError as error:
            issue = {"path": error.path, "message": error.message}
            refusal = Refusal(400, "invalid_request", "the request is not valid", issues=[issue])
            self.answer(400, refusal.body, "application/problem+json")

    def read_body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(
        self, status: int, body: Any, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def route(self, path: list[str], body: bytes) -> None:
        match (self.command, *path):
            case ("GET", "v1", "me"):
                self.answer(200, self.me())
            case ("POST", "v1", "jobs"):
                self.submit(body)
            case ("GET", "v1", "jobs"):
                self.list_jobs()
            case (_, "v1", "jobs", job_id, *rest):
                self.job_route(self.fake.job(job_id), rest)
            case ("POST", "v1", "clusters"):
                self.start_cluster(json.loads(body))
            case ("GET", "v1", "clusters"):
                found = [c for c in self.fake.clusters.values() if self.query.get("status") in (None, c["status"])]
                self.answer(200, self.page(found[::-1]))
            case (_, "v1", "clusters", cluster_id, *rest):
                self.cluster_route(cluster_id, rest)
            case _:
                raise Refusal(404, "not_found", f"there is no address {self.path}")

    def me(self) -> dict[str, Any]:
        return {
            "workspace": {"id": "ws_1", "name": "testing"},
            "user": "tester",
            "serverVersion": "0.0.0",
            "defaultContext": {**LOCAL, "packages": [], "env": {}, "idleTimeoutSeconds": 600},
            "resultsLocation": str(self.fake.jobs.results),
            "polars": [pl.__version__],
        }

    def page(self, found: list[Any]) -> dict[str, Any]:
        limit, start = int(self.query.get("limit", 50)), int(self.query.get("cursor", 0))
        if not 1 <= limit <= 1000:
            raise Refusal(400, "invalid_request", "limit is from 1 to 1000")
        more = start + limit < len(found)
        return {"items": found[start : start + limit], "nextCursor": str(start + limit) if more else None}

    def submit(self, body: bytes) -> None:
        read = self.submit_lines if "ndjson" in self.headers["content-type"] else self.submit_one_of
        job = self.once(lambda: read(body))
        assert job is not None
        seconds = float(self.query.get("wait", 0))
        if not 0 <= seconds <= 60:
            raise Refusal(400, "invalid_request", "wait is from 0 to 60")
        self.fake.jobs.wait(job, seconds)
        self.answer(202, job.wire)

    def once(self, make: Callable[[], Job | None]) -> Job | None:
        """What the first request with this idempotency key made."""
        key = self.headers.get("idempotency-key", "")
        with self.fake.lock:
            known = self.fake.seen_keys.get(key)
        if known is not None:
            return self.fake.job(known)
        job = make()
        if job is not None:
            with self.fake.lock:
                self.fake.seen_keys[key] = job.id
        return job

    def submit_one_of(self, body: bytes) -> Job:
        return self.submit_one(json.loads(body))

    def submit_one(self, content: Any) -> Job:
        contract_checks.submit_job(content, "body")
        mode = "partitioned" if content["spec"].get("partitionBy") else "single"
        self.check_offered(content["spec"])
        return self.fake.jobs.submit(content["spec"], [content["plan"]["data"]], mode)

    def submit_lines(self, body: bytes) -> Job:
        lines = [json.loads(line) for line in body.splitlines()]
        for index, line in enumerate(lines):
            contract_checks.submit_line(line, f"line {index}")
        if not lines or lines[0]["line"] != "header" or any(line["line"] == "header" for line in lines[1:]):
            raise Refusal(400, "invalid_request", "the first line, and no other, is the header")
        plans: dict[int, str] = {}
        frames: list[str] = []
        for line in lines[1:]:
            if line["line"] == "plan":
                if line["number"] in plans or line["plan"]["data"] in plans.values():
                    raise Refusal(400, "invalid_request", "this plan was sent before")
                plans[line["number"]] = line["plan"]["data"]
            else:
                frames += [plans[number] for number in line["plans"]]
        self.check_offered(lines[0]["spec"])
        return self.fake.jobs.submit(lines[0]["spec"], frames, "many")

    def check_offered(self, spec: dict[str, Any]) -> None:
        if spec.get("scaling") == "distributed" and "distributed" not in self.fake.offered:
            raise Refusal(422, "not_available", "this installation does not run distributed queries yet")
        self.check_context(spec.get("context") or {})
        if spec.get("clusterId") and spec["clusterId"] not in self.fake.clusters:
            raise Refusal(404, "not_found", f"there is no cluster {spec['clusterId']}")

    def check_context(self, context: dict[str, Any]) -> None:
        if context.get("gpus") or context.get("cloud", "local") != "local":
            raise Refusal(422, "not_available", "this installation offers the local cloud only, without GPUs")

    def list_jobs(self) -> None:
        if len(self.queries.get("label", [])) > 1:
            raise Refusal(400, "invalid_request", "one label at most")
        labels = [tuple(label.split(":", 1)) for label in self.queries.get("label", [])]
        found = [
            job.wire
            for job in reversed(self.fake.submitted())
            if all(self.query.get(name) in (None, job.wire[name]) for name in ("status", "user", "mode"))
            and all(job.wire["labels"].get(name) == value for name, value in labels)
        ]
        self.answer(200, self.page(found))

    def job_route(self, job: Job, rest: list[str]) -> None:
        jobs = self.fake.jobs
        match (self.command, *rest):
            case ("GET",):
                self.answer(200, job.wire)
            case ("GET", "wait"):
                revision = self.query.get("revision")
                jobs.wait(job, float(self.query["timeout"]), None if revision is None else int(revision))
                self.answer(200, job.wire)
            case ("GET", "results"):
                done = [task["result"] for task in job.tasks if task["status"] == "succeeded"]
                self.answer(200, self.page(done))
            case ("GET", "failures"):
                self.answer(200, {"groups": jobs.failures(job)})
            case ("GET", "logs"):
                found = [line for line in job.logs if int(line["id"]) > int(self.query.get("cursor", 0))]
                found = found[: int(self.query.get("limit", 50))]
                self.answer(200, {"items": found, "nextCursor": found[-1]["id"] if found else None})
            case ("GET", "events"):
                self.events(job)
            case ("POST", "cancel"):
                jobs.cancel(job)
                self.answer(200, job.wire)
            case ("POST", "retry"):
                new = self.once(lambda: jobs.retry(job))
                if new is None:
                    raise Refusal(409, "conflict", f"{job.id} has not ended, or nothing of it failed")
                self.answer(202, new.wire)
            case _:
                raise Refusal(404, "not_found", f"there is no address {self.path}")

    def events(self, job: Job) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for name, data in self.event_list(job):
            self.wfile.write(f": heartbeat\n\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()

    def event_list(self, job: Job) -> Iterator[tuple[str, Any]]:
        after = int(self.query.get("after", 0))
        while True:
            with self.fake.jobs.changed:
                lines = [line for line in job.logs if int(line["id"]) > after]
                final = job.final
                wire = dict(job.wire)
            for line in lines:
                after = int(line["id"])
                yield "log", line
            if final:
                yield "end", wire
                return
            yield "job", wire
            self.fake.jobs.wait(job, 5, wire["revision"])

    def start_cluster(self, content: Any) -> None:
        contract_checks.start_cluster(content, "body")
        self.check_context(content["context"])
        shape = {name: content["context"].get(name, LOCAL[name]) for name in LOCAL}
        cluster = {
            "id": mint("cl"),
            "name": content.get("name"),
            "status": "starting",
            "shape": shape,
            "idleTimeoutSeconds": content["context"].get("idleTimeoutSeconds", 600),
            "nodes": {"ready": 0, "total": shape["clusterSize"]},
            "activeJobs": 0,
            "error": None,
            "createdAt": now(),
            "readyAt": None,
            "finishedAt": None,
        }
        self.fake.clusters[cluster["id"]] = cluster
        self.answer(202, cluster)

    def cluster_route(self, cluster_id: str, rest: list[str]) -> None:
        cluster = self.fake.clusters.get(cluster_id)
        if cluster is None:
            raise Refusal(404, "not_found", f"there is no cluster {cluster_id}")
        if rest == ["wait"] and cluster["status"] == "starting":
            cluster["status"] = self.fake.cluster_status
            if cluster["status"] == "terminated":
                cluster["error"] = {"code": "capacity", "message": "no machines of this size are left"}
        if rest == ["stop"]:
            cluster["status"] = "terminated"
        self.answer(202 if rest == ["stop"] else 200, cluster)


def respond(
    status: int, body: Any, kind: str = "application/problem+json", **headers: str
) -> Callable[[Handler], bool]:
    """A fault: this answer instead of the real one."""

    def fault(handler: Handler) -> bool:
        handler.answer(status, body, kind, headers)
        return True

    return fault


def hang_up(handler: Handler) -> bool:
    """A fault: the connection breaks before the request is served."""
    handler.close_connection = True
    handler.connection.close()
    return True


def lose_answer(handler: Handler) -> bool:
    """A fault: the request is served, and the connection breaks before its answer arrives."""

    def cut(*_: Any, **__: Any) -> None:
        hang_up(handler)

    handler.answer = cut  # type: ignore[method-assign]
    return False


UNAVAILABLE = {
    "type": "urn:frazil:error:unavailable",
    "title": "unavailable",
    "status": 503,
    "code": "unavailable",
    "detail": "starting",
}
__all__ = ["FINAL", "TOKEN", "UNAVAILABLE", "FakeServer", "Refusal", "hang_up", "lose_answer", "respond"]
