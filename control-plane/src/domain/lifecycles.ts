import type { ClusterStatus, JobStatus, NodeStatus, TaskStatus } from "@frazil/contracts";

/** One lifecycle: status -> event -> next status. A status without events is final. */
export type Lifecycle<S extends string, E extends string> = Readonly<Record<S, Readonly<Partial<Record<E, S>>>>>;

export type JobEvent = "start" | "succeed" | "fail" | "cancel";
export const JOB: Lifecycle<JobStatus, JobEvent> = {
  queued: { start: "running", succeed: "succeeded", fail: "failed", cancel: "cancelled" },
  running: { succeed: "succeeded", fail: "failed", cancel: "cancelled" },
  succeeded: {},
  failed: {},
  cancelled: {},
};

/** `publish` is the point of no return: a task whose attempt was fenced for publishing can no longer be cancelled. */
export type TaskEvent = "lease" | "start" | "publish" | "finish" | "fail" | "requeue" | "cancel";
export const TASK: Lifecycle<TaskStatus, TaskEvent> = {
  queued: { lease: "leased", fail: "failed", cancel: "cancelled" },
  leased: {
    start: "running",
    publish: "publishing",
    finish: "succeeded",
    fail: "failed",
    requeue: "queued",
    cancel: "cancelled",
  },
  running: { publish: "publishing", finish: "succeeded", fail: "failed", requeue: "queued", cancel: "cancelled" },
  publishing: { finish: "succeeded", fail: "failed", requeue: "queued" },
  succeeded: {},
  failed: {},
  cancelled: {},
};

/** A cluster that fails to start is stopped too (its `error` says why): whatever was made must be confirmed gone. */
export type ClusterEvent = "start" | "ready" | "stop" | "terminate";
export const CLUSTER: Lifecycle<ClusterStatus, ClusterEvent> = {
  requested: { start: "starting", stop: "stopping" },
  starting: { ready: "ready", stop: "stopping" },
  ready: { stop: "stopping" },
  stopping: { terminate: "terminated" },
  terminated: {},
};

/** `terminated` only when the cloud confirms that the machine is gone. */
export type NodeEvent = "join" | "lose" | "stop" | "terminate";
export const NODE: Lifecycle<NodeStatus, NodeEvent> = {
  requested: { join: "ready", lose: "lost", stop: "stopping", terminate: "terminated" },
  ready: { lose: "lost", stop: "stopping", terminate: "terminated" },
  lost: { join: "ready", stop: "stopping", terminate: "terminated" },
  stopping: { terminate: "terminated" },
  terminated: {},
};

/** The statuses in which an event may happen: the guard of the status write. */
export function sources<S extends string, E extends string>(lifecycle: Lifecycle<S, E>, event: E): S[] {
  return (Object.keys(lifecycle) as S[]).filter((status) => lifecycle[status][event] !== undefined);
}

/** Where an event leads. Every event leads to one status, whatever it comes from (checked by a test). */
export function target<S extends string, E extends string>(lifecycle: Lifecycle<S, E>, event: E): S {
  for (const status of sources(lifecycle, event)) return lifecycle[status][event] as S;
  throw new Error(`no status takes ${event}`);
}

export function isFinal<S extends string, E extends string>(lifecycle: Lifecycle<S, E>, status: S): boolean {
  return Object.keys(lifecycle[status]).length === 0;
}
