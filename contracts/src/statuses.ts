import { z } from "zod";

export const JobStatus = z.enum(["queued", "running", "succeeded", "failed", "cancelled"]);
export type JobStatus = z.infer<typeof JobStatus>;
export const TaskStatus = z.enum(["queued", "leased", "running", "publishing", "succeeded", "failed", "cancelled"]);
export type TaskStatus = z.infer<typeof TaskStatus>;
export const ClusterStatus = z.enum(["requested", "starting", "ready", "stopping", "terminated"]);
export type ClusterStatus = z.infer<typeof ClusterStatus>;
export const NodeStatus = z.enum(["requested", "ready", "lost", "stopping", "terminated"]);
export type NodeStatus = z.infer<typeof NodeStatus>;
export const JobMode = z.enum(["single", "distributed", "partitioned", "many"]);
export type JobMode = z.infer<typeof JobMode>;
export const TaskKind = z.enum(["query", "split", "key"]);
export type TaskKind = z.infer<typeof TaskKind>;

export function isFinalJobStatus(status: JobStatus): boolean {
  return status === "succeeded" || status === "failed" || status === "cancelled";
}
