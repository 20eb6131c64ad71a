import { z } from "zod";
import { EngineResult, EngineUsage, FoundKey, Manifest, TaskRef } from "./engine-protocol.ts";
import { EngineChoice, ErrorInfo, Output, PartitionBy } from "./job-api.ts";
import { SWEEP_ATTEMPTS_MAX } from "./limits.ts";
import { TaskKind } from "./statuses.ts";

/**
 * What a node's agent and the control plane say to each other.
 *
 * `POST /v1/agent/join` {joinToken} -> {nodeId, nodeToken}: once per node; the join token is single-use.
 * `GET  /v1/agent/connect` (WebSocket, Authorization: Bearer <nodeToken>): one connection, reopened with backoff. Text frames of JSON, <= 64 KiB: a message, or
 *        an array of messages.
 * `POST /v1/agent/messages` (same token): the same `FromNode` messages, for one that is larger than a frame may be; body {messages: FromNode[]},
 *        answer {messages: ToNode[]} (the acknowledgements).
 * `POST /v1/agent/leases` {tasks: [{taskId, attempt}]} -> LeaseBatch: the content of a `lease_by_reference`.
 * `GET  /v1/agent/plans/{planId}` -> application/octet-stream: plan bytes. A plan that is leased to the node's workspace.
 * `GET  /v1/agent/sweeps/{jobId}?after=` -> SweepOrder: what a `sweep` is about. An ended job of the node's workspace.
 * `POST /v1/agent/logs` {lines: NodeLogLine[]} -> 204: idempotent by (taskId, attempt, seq).
 */
export const JoinRequest = z.strictObject({
  joinToken: z.string().max(200),
  agentVersion: z.string().max(40),
  hostname: z.string().max(255),
  pid: z.int(),
  pythons: z.array(z.string().max(10)).max(20).describe("Python minors that this node can run."),
});
export type JoinRequest = z.infer<typeof JoinRequest>;
export const JoinAnswer = z.object({ nodeId: z.string(), nodeToken: z.string() });
export type JoinAnswer = z.infer<typeof JoinAnswer>;

/** What all tasks of a job share. Agents keep it by `jobId` for as long as they have runs of the job. */
export const RunTemplate = z.object({
  jobId: z.string(),
  workspaceId: z.string(),
  user: z.string(),
  polars: z.string(),
  python: z.string(),
  hasPython: z.boolean(),
  packages: z.array(z.string()),
  env: z.record(z.string(), z.string()),
  engine: EngineChoice,
  output: Output,
  resultsLocation: z.string(),
  partitionBy: PartitionBy.nullable(),
  splitState: z.json(),
  seed: z.int().nullable(),
  cwd: z.string().nullable(),
  headBytesMax: z.int(),
  timeoutMs: z.int(),
});
export type RunTemplate = z.infer<typeof RunTemplate>;

/** One engine run: one task, or a batch of key tasks that share a read. `publish` is set when only a publishing is to be finished. */
export const Run = z.object({
  kind: TaskKind,
  tasks: z.array(TaskRef).min(1),
  planId: z.string(),
  planKind: z.enum(["dsl", "sql"]),
  /** base64, when small enough; else fetch it by id. */
  plan: z.string().nullable(),
  slots: z.int().min(1),
  publish: z.object({ manifest: Manifest }).nullable(),
});
export type Run = z.infer<typeof Run>;
export const LeaseBatch = z.object({ template: RunTemplate, runs: z.array(Run) });
export type LeaseBatch = z.infer<typeof LeaseBatch>;

const AttemptRef = z.object({ taskId: z.string(), attempt: z.int() });
export type AttemptRef = z.infer<typeof AttemptRef>;

/** A part of what is to be removed of an ended job: all that it has staged, and the results of these attempts. */
export const SweepOrder = z.object({
  template: RunTemplate,
  attempts: z.array(AttemptRef).max(SWEEP_ATTEMPTS_MAX),
  /** Where the next part begins; null for the last. */
  next: z.string().nullable(),
});
export type SweepOrder = z.infer<typeof SweepOrder>;

export const ToNode = z.discriminatedUnion("type", [
  z.object({ type: z.literal("welcome"), slots: z.int(), memoryMiB: z.int() }),
  z.object({ type: z.literal("lease"), batch: LeaseBatch }),
  /** Too large for a frame: fetch it from `/v1/agent/leases`. */
  z.object({ type: z.literal("lease_by_reference"), tasks: z.array(AttemptRef) }),
  /** Answer to `staged`. */
  z.object({ type: z.literal("publish"), taskId: z.string(), attempt: z.int() }),
  z.object({ type: z.literal("abandon"), taskId: z.string(), attempt: z.int() }),
  /** Answer to `finished`: the control plane has it (or refused it as stale); drop it from the spool. */
  z.object({ type: z.literal("recorded"), taskId: z.string(), attempt: z.int(), accepted: z.boolean() }),
  /** Stop these attempts now (cancelled, or the lease went to another node). Answer each with `finished` outcome `released`. */
  z.object({ type: z.literal("cancel"), tasks: z.array(AttemptRef) }),
  /** Give these back if they have not begun: answer each that has not with `finished` outcome `returned`. */
  z.object({ type: z.literal("recall"), tasks: z.array(AttemptRef) }),
  /** Answer to `heartbeat`. `lost` attempts are no longer this node's: kill them, as for `cancel`. */
  z.object({ type: z.literal("beat"), lost: z.array(AttemptRef) }),
  /** Remove what attempts of this ended job left in storage, as `/v1/agent/sweeps` says; answer with `swept`. */
  z.object({ type: z.literal("sweep"), jobId: z.string(), token: z.string() }),
  /** Finish what runs, take nothing new, then exit. */
  z.object({ type: z.literal("drain") }),
]);
export type ToNode = z.infer<typeof ToNode>;

export const Outcome = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("succeeded"), result: EngineResult, head: z.string().nullable() }),
  z.object({
    kind: z.literal("split"),
    keys: z.array(FoundKey),
    splitState: z.json(),
    /** As the engine's `keys` says it. */
    stored: z.boolean().optional(),
  }),
  z.object({ kind: z.literal("failed"), error: ErrorInfo, retryable: z.boolean() }),
  /** Given back without an answer: cancelled, lost, or never started because the node drains. */
  z.object({ kind: z.literal("released") }),
  /** Not begun, and given back on `recall`: it costs the task no attempt. */
  z.object({ kind: z.literal("returned") }),
]);
export type Outcome = z.infer<typeof Outcome>;

export const NodeUsage = EngineUsage.extend({ peakMemoryBytes: z.int() });
export type NodeUsage = z.infer<typeof NodeUsage>;

export const FromNode = z.discriminatedUnion("type", [
  /** First message on every connection: the attempts this node still holds (also those whose outcome is spooled). */
  z.object({ type: z.literal("hello"), holding: z.array(AttemptRef) }),
  z.object({
    type: z.literal("heartbeat"),
    holding: z.array(AttemptRef),
    cpuPercent: z.number(),
    memoryBytes: z.int(),
  }),
  /** The engine has the task. Batched. */
  z.object({ type: z.literal("started"), tasks: z.array(AttemptRef) }),
  z.object({ type: z.literal("progress"), taskId: z.string(), attempt: z.int(), phase: z.string().max(200) }),
  z.object({ type: z.literal("staged"), taskId: z.string(), attempt: z.int(), manifest: Manifest }),
  z.object({
    type: z.literal("finished"),
    taskId: z.string(),
    attempt: z.int(),
    outcome: Outcome,
    usage: NodeUsage.nullable(),
    openedPython: z.boolean(),
  }),
  /** `token` is that of the `sweep`. */
  z.object({ type: z.literal("swept"), jobId: z.string(), token: z.string(), error: ErrorInfo.nullable() }),
]);
export type FromNode = z.infer<typeof FromNode>;

export const NodeLogLine = z.object({
  taskId: z.string(),
  attempt: z.int(),
  /** Grows by one per line of an attempt, from 0. */
  seq: z.int().min(0),
  at: z.iso.datetime(),
  stream: z.enum(["stdout", "stderr", "system"]),
  text: z.string(),
});
export type NodeLogLine = z.infer<typeof NodeLogLine>;

/** The environment that a cloud gives to a node's agent process. */
export const NODE_ENV = {
  address: "FRAZIL_ADDRESS",
  joinToken: "FRAZIL_JOIN_TOKEN",
  /** Directory of the node: engine environments are in `$FRAZIL_CACHE_DIR`, everything of this node in `$FRAZIL_NODE_DIR`. */
  nodeDir: "FRAZIL_NODE_DIR",
  cacheDir: "FRAZIL_CACHE_DIR",
  /** How often the node says what it holds: several times in the time of a lease. */
  heartbeatIntervalMs: "FRAZIL_HEARTBEAT_INTERVAL_MS",
  /** Name of another user for engines, where the agent runs as root on a machine of its own. */
  engineUser: "FRAZIL_ENGINE_USER",
} as const;
