"""The request shapes of the HTTP API, written down a second time: what a strict server accepts, and nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any


class ShapeError(Exception):
    """A request that the contract does not allow. `path` says where."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


Check = Callable[[Any, str], None]


def text(most: int, least: int = 0, pattern: str | None = None) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise ShapeError(path, f"expected text of {least} to {most} characters, got {value!r}")
        if pattern is not None and not re.search(pattern, value):
            raise ShapeError(path, f"{value!r} does not match {pattern}")

    return check


def whole(least: int, most: int) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ShapeError(path, f"expected a whole number from {least} to {most}, got {value!r}")

    return check


def number(most: float) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
            raise ShapeError(path, f"expected a number up to {most}, got {value!r}")

    return check


def one_of(*values: str) -> Check:
    def check(value: Any, path: str) -> None:
        if value not in values:
            raise ShapeError(path, f"expected one of {values}, got {value!r}")

    return check


def nullable(inner: Check) -> Check:
    return lambda value, path: None if value is None else inner(value, path)


def flag(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise ShapeError(path, f"expected true or false, got {value!r}")


def anything(value: Any, path: str) -> None:
    """Any JSON."""


def base64_text(value: Any, path: str) -> None:
    try:
        base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise ShapeError(path, "expected base64") from None


def mapping(key: Check, inner: Check) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise ShapeError(path, f"expected an object, got {value!r}")
        for name, item in value.items():
            key(name, f"{path}.{name}")
            inner(item, f"{path}.{name}")

    return check


def items(inner: Check, least: int, most: int) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ShapeError(path, f"expected {least} to {most} items")
        for index, item in enumerate(value):
            inner(item, f"{path}[{index}]")

    return check


def strict(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise ShapeError(path, f"expected an object, got {value!r}")
        for name in value:
            if name not in required and name not in optional:
                raise ShapeError(f"{path}.{name}", "unrecognised key")
        for name, inner in required.items():
            if name not in value:
                raise ShapeError(f"{path}.{name}", "required")
            inner(value[name], f"{path}.{name}")
        for name, inner in optional.items():
            if name in value:
                inner(value[name], f"{path}.{name}")

    return check


def plan(value: Any, path: str) -> None:
    if isinstance(value, Mapping) and value.get("kind") == "sql":
        return strict({"kind": one_of("sql"), "text": text(1024 * 1024, 1)}, {})(value, path)
    return strict({"kind": one_of("dsl"), "data": base64_text}, {})(value, path)


compute_context = strict(
    {"cpus": whole(1, 1024), "memoryGiB": number(24_576)},
    {
        "cloud": text(64, 1),
        "gpus": whole(0, 16),
        "clusterSize": whole(1, 256),
        "packages": items(text(300, 1), 0, 200),
        "env": mapping(text(128, 1, r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), text(32_768)),
        "idleTimeoutSeconds": whole(5, 24 * 3600),
    },
)

job_spec = strict(
    {
        "client": strict(
            {"polars": text(40, 1, r"^\d+\.\d+\.\d+\S*$"), "python": text(5, 3, r"^3\.\d{1,2}$")},
            {"hasPython": flag, "cwd": nullable(text(4096))},
        )
    },
    {
        "name": nullable(text(200, 1)),
        "labels": mapping(text(63, 1), text(256)),
        "context": nullable(compute_context),
        "clusterId": nullable(text(40, 1, r"^cl_[0-9a-z]{26}$")),
        "engine": one_of("auto", "streaming", "in-memory", "gpu"),
        "scaling": one_of("auto", "single", "distributed"),
        "output": strict(
            {},
            {
                "format": one_of("parquet", "csv", "ipc", "ndjson"),
                "destination": nullable(text(4096, 1)),
                "mode": one_of("error", "overwrite", "append"),
                "options": mapping(text(100), anything),
                "storageOptions": mapping(text(200), text(32_768)),
            },
        ),
        "partitionBy": nullable(
            strict(
                {"keys": items(strict({"name": text(500, 1)}, {"expr": nullable(base64_text)}), 1, 8)},
                {"maxKeys": whole(1, 1_000_000)},
            )
        ),
        "onFailure": one_of("continue", "cancel"),
        "attemptsMax": whole(1, 20),
        "priority": whole(0, 100),
        "timeoutMs": whole(100, 14 * 24 * 3_600_000),
        "seed": nullable(whole(0, 2**53)),
    },
)

submit_job = strict({"spec": job_spec, "plan": plan}, {})
start_cluster = strict({"context": compute_context}, {"name": nullable(text(200, 1))})


def submit_line(value: Any, path: str) -> None:
    kind = value.get("line") if isinstance(value, Mapping) else None
    shapes = {
        "header": strict({"line": anything, "spec": job_spec}, {}),
        "plan": strict({"line": anything, "number": whole(0, 10**9), "plan": plan}, {}),
        "frames": strict({"line": anything, "plans": items(whole(0, 10**9), 0, 100_000)}, {}),
    }
    if kind not in shapes:
        raise ShapeError(f"{path}.line", f"expected one of {tuple(shapes)}, got {kind!r}")
    shapes[kind](value, path)
