import {
  Cluster,
  type ErrorInfo,
  Job,
  type LogLine,
  type Me,
  mintId,
  type Task,
  type TaskCounts,
  TaskResult,
} from "@frazil/contracts";
import type { z } from "zod";

/** Things of the API as a server would send them, made from only what a test cares about, and checked against the contract. */
export const START = "2026-01-02T03:04:05.000Z";

export function countsOf(counts: Partial<TaskCounts> = {}): TaskCounts {
  return { total: 1, queued: 0, running: 0, succeeded: 0, failed: 0, cancelled: 0, ...counts };
}

export function makeJob(patch: Partial<z.input<typeof Job>> = {}): Job {
  return Job.parse({
    id: mintId("job"),
    name: null,
    mode: "single",
    status: "queued",
    phase: null,
    user: "ann",
    labels: {},
    shape: { cloud: "local", cpus: 2, memoryGiB: 4, gpus: 0, clusterSize: 1 },
    clusterId: null,
    engine: "auto",
    polars: "2.1.0",
    python: "3.11",
    output: { format: "ipc", destination: null, mode: "error", options: {} },
    partitionBy: null,
    priority: 50,
    counts: countsOf({ queued: 1 }),
    logLines: 0,
    error: null,
    retryOf: null,
    createdAt: START,
    startedAt: null,
    finishedAt: null,
    revision: 1,
    result: null,
    ...patch,
  });
}

/** A patch that ends a job one second after it began. */
export function ended(status: "succeeded" | "failed" | "cancelled", patch: Partial<Job> = {}): Partial<Job> {
  const counts = countsOf({ [status]: 1 });
  return { status, counts, startedAt: START, finishedAt: "2026-01-02T03:04:06.500Z", ...patch };
}

export function makeResult(patch: Partial<z.input<typeof TaskResult>> = {}): TaskResult {
  return TaskResult.parse({
    taskId: mintId("task"),
    frame: null,
    key: null,
    locations: ["/data/out/part-0.parquet"],
    format: "parquet",
    schema: [
      { name: "region", dtype: "String" },
      { name: "total", dtype: "Int64" },
    ],
    rows: 3,
    bytes: 123,
    head: null,
    warnings: [],
    ...patch,
  });
}

export function makeTask(jobId: Job["id"], patch: Partial<Task> = {}): Task {
  return {
    id: mintId("task"),
    jobId,
    status: "succeeded",
    frame: null,
    key: null,
    attempt: 1,
    phase: null,
    error: null,
    createdAt: START,
    startedAt: START,
    finishedAt: "2026-01-02T03:04:06.000Z",
    ...patch,
  };
}

export function makeError(patch: Partial<ErrorInfo> = {}): ErrorInfo {
  return {
    code: "query_failed",
    message: 'unable to find column "nope"',
    type: "ColumnNotFoundError",
    module: "polars.exceptions",
    traceback: null,
    hint: null,
    ...patch,
  };
}

export function makeLine(id: number, text: string, patch: Partial<LogLine> = {}): LogLine {
  return { id: String(id), at: START, taskId: null, attempt: 1, stream: "stdout", text, ...patch };
}

export function makeCluster(patch: Partial<z.input<typeof Cluster>> = {}): Cluster {
  return Cluster.parse({
    id: mintId("cluster"),
    name: null,
    status: "requested",
    shape: { cloud: "local", cpus: 2, memoryGiB: 4, gpus: 0, clusterSize: 1 },
    idleTimeoutSeconds: 600,
    nodes: { ready: 0, total: 0 },
    activeJobs: 0,
    error: null,
    createdAt: START,
    readyAt: null,
    finishedAt: null,
    ...patch,
  });
}

export const ME: Me = {
  workspace: { id: mintId("workspace"), name: "analytics" },
  user: "ann",
  serverVersion: "0.1.0",
  defaultContext: {
    cloud: "local",
    cpus: 2,
    memoryGiB: 4,
    gpus: 0,
    clusterSize: 1,
    packages: [],
    env: {},
    idleTimeoutSeconds: 600,
  },
  resultsLocation: "/results",
  polars: ["2.0.0", "2.1.0"],
};
