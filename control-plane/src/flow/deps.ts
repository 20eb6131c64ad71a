import type { Cloud } from "@frazil/infra";
import type { Logger } from "pino";
import type { Changes } from "../db/changes.ts";
import type { Db } from "../db/index.ts";
import type { Pool, Sql, Transaction } from "../db/pool.ts";
import type { Sealer } from "../domain/seal.ts";
import type { Dispatcher } from "./dispatch.ts";
import type { Endings } from "./endings.ts";
import type { StepName } from "./steps.ts";
import type { Templates } from "./templates.ts";

export type { ClusterRow, ConnectedNode, Heartbeat, NodeRow } from "../db/clusters.ts";
export type { PrismaClient as Prisma } from "../db/generated/client.ts";
export type { LockedJob } from "../db/job-ends.ts";
export type { StopBatch } from "../db/job-tasks.ts";
export type { JobReading, JobRow } from "../db/jobs.ts";
export type { Allowance, Leasable, LeasedTask, Progress } from "../db/leasing.ts";
export type { NewPlan } from "../db/plans.ts";
export type { NewResult } from "../db/results.ts";
export type { AttemptKey, Locked, OpenTask, StartedAttempt, TaskOutcome } from "../db/tasks.ts";
export type { WorkspaceRow } from "../db/tokens.ts";
export type { Sql, Transaction };

/** Everything with an effect that the flow uses. Functions take it first, narrowed with Pick. */
export interface Deps {
  readonly pool: Pool;
  readonly db: Db;
  readonly changes: Changes;
  readonly sealer: Sealer;
  readonly clouds: ReadonlyMap<string, Cloud>;
  /** Carries `{ step, id }`: a hint that something is due. Losing or repeating it is harmless. */
  readonly queue: StepQueue;
  readonly dispatcher: Dispatcher;
  readonly endings: Endings;
  readonly templates: Templates;
  readonly settings: Settings;
  readonly log: Logger;
}

export interface StepQueue {
  /** Never throws: what is not delivered is found by the reconciler. */
  send(step: StepName, id: string): void;
}

export interface Settings {
  readonly leaseTtlMs: number;
  /** How long a sender may be silent within a body. */
  bodyIdleMs: number;
  /** Where nodes reach this control plane. */
  readonly address: string;
  readonly cacheDir: string;
}

/** Topics of `changes`. */
export const topics = {
  job: (jobId: string) => `job:${jobId}`,
  jobEnd: (jobId: string) => `end:${jobId}`,
  cluster: (clusterId: string) => `cluster:${clusterId}`,
  /** Something became leasable in a cluster. */
  room: (clusterId: string) => `room:${clusterId}`,
  /** Attempts of this job that are on nodes were ended. */
  cancel: (jobId: string) => `cancel:${jobId}`,
  /** The slots of this attempt are free, at the process that the node is connected to. */
  freed: (nodeId: string, attempt: string) => `freed:${nodeId} ${attempt}`,
  /** A user's token, by its prefix, or a node's was changed, by whomever: triggers of the database announce it. */
  token: (prefix: string) => `token:${prefix}`,
  node: (nodeId: string) => `node:${nodeId}`,
  /** A node is wanted that removes what is left of this ended job. */
  sweep: (jobId: string) => `sweep:${jobId}`,
};
