import type { Cluster, Job, TaskResult } from "@frazil/contracts";
import type { ClusterRow, JobRow } from "../flow/deps.ts";

const iso = (date: Date | null) => (date === null ? null : date.toISOString());

/** A job as the API shows it. */
export function viewJob(row: JobRow, result: TaskResult | null): Job {
  const running = row.tasks_running ?? 0;
  const ended = row.tasks_succeeded + row.tasks_failed + row.tasks_cancelled;
  return {
    id: row.id as Job["id"],
    name: row.name,
    mode: row.mode,
    status: row.status,
    phase: row.phase ?? (row.splits_open > 0 && row.status === "running" ? "finding the keys" : null),
    user: row.user_name,
    labels: row.labels,
    shape: row.shape,
    clusterId: row.cluster_id as Job["clusterId"],
    engine: row.spec.engine,
    polars: row.polars,
    python: row.python,
    output: {
      format: row.spec.output.format,
      destination: row.spec.output.destination,
      mode: row.spec.output.mode,
      options: row.spec.output.options,
    },
    partitionBy: row.spec.partitionBy === null ? null : row.spec.partitionBy.keys.map((key) => key.name),
    priority: row.priority,
    counts: {
      total: row.tasks_total,
      queued: Math.max(0, row.tasks_total - ended - running),
      running,
      succeeded: row.tasks_succeeded,
      failed: row.tasks_failed,
      cancelled: row.tasks_cancelled,
    },
    logLines: row.log_lines,
    error: row.error,
    retryOf: row.retry_of as Job["retryOf"],
    createdAt: row.created_at.toISOString(),
    startedAt: iso(row.started_at),
    finishedAt: iso(row.finished_at),
    revision: row.revision,
    result,
  };
}

export function viewCluster(row: ClusterRow, nodes: { ready: number; total: number }, activeJobs: number): Cluster {
  return {
    id: row.id as Cluster["id"],
    name: row.name,
    status: row.status,
    shape: row.shape,
    idleTimeoutSeconds: row.idle_timeout_seconds,
    nodes,
    activeJobs,
    error: row.error,
    createdAt: row.created_at.toISOString(),
    readyAt: iso(row.ready_at),
    finishedAt: iso(row.finished_at),
  };
}
