"""Shapes of the HTTP API's JSON, as far as the client reads them, and its limits."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
JobMode = Literal["single", "distributed", "partitioned", "many"]
Format = Literal["parquet", "csv", "ipc", "ndjson"]
Mode = Literal["error", "overwrite", "append"]
ClusterStatus = Literal["requested", "starting", "ready", "stopping", "terminated"]
EngineName = Literal["auto", "streaming", "in-memory", "gpu"]

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
WAIT_SECONDS_MAX = 60
PAGE_SIZE_MAX = 1_000
PLAN_BYTES_MAX = 64 * 1024 * 1024
ATTEMPTS_MAX = 20
FRAMES_PER_LINE = 1_000


class _RequiredErrorInfo(TypedDict):
    code: str
    message: str


class ErrorInfo(_RequiredErrorInfo, total=False):
    type: str | None
    module: str | None
    traceback: str | None
    hint: str | None


class ColumnSchema(TypedDict):
    name: str
    dtype: str


class EngineWarning(TypedDict):
    category: str
    message: str


class TaskResult(TypedDict):
    taskId: str
    frame: int | None
    key: dict[str, str | None] | None
    locations: list[str]
    format: Format
    schema: list[ColumnSchema]
    rows: int
    bytes: int | None
    head: str | None
    warnings: list[EngineWarning]


class TaskCounts(TypedDict):
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class Shape(TypedDict):
    cloud: str
    cpus: int
    memoryGiB: float
    gpus: int
    clusterSize: int


class JobOutput(TypedDict):
    format: Format
    destination: str | None
    mode: Mode
    options: dict[str, Any]


class Job(TypedDict):
    id: str
    name: str | None
    mode: JobMode
    status: JobStatus
    phase: str | None
    user: str
    labels: dict[str, str]
    shape: Shape
    clusterId: str | None
    engine: EngineName
    polars: str
    python: str
    output: JobOutput
    partitionBy: list[str] | None
    priority: int
    counts: TaskCounts
    logLines: int
    error: ErrorInfo | None
    retryOf: str | None
    createdAt: str
    startedAt: str | None
    finishedAt: str | None
    revision: int
    result: TaskResult | None


class WireFailureGroup(TypedDict):
    error: ErrorInfo
    count: int
    exampleTaskId: str
    frames: list[int]


class WireLogLine(TypedDict):
    id: str
    at: str
    taskId: str | None
    attempt: int
    stream: Literal["stdout", "stderr", "system"]
    text: str


class WireCluster(TypedDict):
    id: str
    name: str | None
    status: ClusterStatus
    shape: Shape
    idleTimeoutSeconds: int
    nodes: dict[str, int]
    activeJobs: int
    error: ErrorInfo | None
    createdAt: str
    readyAt: str | None
    finishedAt: str | None


class Me(TypedDict):
    workspace: dict[str, str]
    user: str
    serverVersion: str
    defaultContext: dict[str, Any]
    resultsLocation: str
    polars: list[str]
