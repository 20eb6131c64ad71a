import { z } from "zod";
import { ComputeContext } from "./compute-context.ts";
import { ErrorCode } from "./errors.ts";
import { ClusterId, JobId, TaskId } from "./ids.ts";
import {
  ATTEMPTS_DEFAULT_MAX,
  ATTEMPTS_MAX,
  ERROR_MESSAGE_CHARS_MAX,
  ERROR_TRACEBACK_CHARS_MAX,
  KEYS_DEFAULT_MAX,
  KEYS_MAX,
  PARTITION_COLUMNS_MAX,
  PLAN_BYTES_MAX,
  PRIORITY_DEFAULT,
  SQL_CHARS_MAX,
  TASK_TIMEOUT_DEFAULT_MS,
  TASK_TIMEOUT_MAX_MS,
  TASKS_PER_JOB_MAX,
} from "./limits.ts";
import { ClusterStatus, JobMode, JobStatus, TaskStatus } from "./statuses.ts";

const base64Chars = (bytes: number) => Math.ceil(bytes / 3) * 4;

/** A serialised query: Polars' own plan bytes in base64, or SQL text over `read_parquet('...')` and its siblings. Opened only by an engine. */
export const Plan = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("dsl"), data: z.base64().max(base64Chars(PLAN_BYTES_MAX)) }),
  z.strictObject({ kind: z.literal("sql"), text: z.string().min(1).max(SQL_CHARS_MAX) }),
]);
export type Plan = z.infer<typeof Plan>;

/** The versions that wrote the plan. The engine runs the same Polars release, and the same Python minor when the plan carries Python. */
export const ClientVersions = z.strictObject({
  polars: z
    .string()
    .regex(/^\d+\.\d+\.\d+\S*$/)
    .max(40)
    .describe("Polars release, such as 2.1.0."),
  python: z
    .string()
    .regex(/^3\.\d{1,2}$/)
    .describe("Python minor, such as 3.11."),
  hasPython: z.boolean().default(false).describe("Whether a plan carries pickled Python."),
  cwd: z
    .string()
    .max(4096)
    .nullish()
    .describe("Directory that relative paths mean, where the node has it (local cloud)."),
});
export type ClientVersions = z.infer<typeof ClientVersions>;

export const OutputFormat = z.enum(["parquet", "csv", "ipc", "ndjson"]);
export type OutputFormat = z.infer<typeof OutputFormat>;
export const OutputMode = z.enum(["error", "overwrite", "append"]);
export type OutputMode = z.infer<typeof OutputMode>;

export const Output = z.strictObject({
  format: OutputFormat.default("ipc"),
  destination: z
    .string()
    .min(1)
    .max(4096)
    .nullable()
    .default(null)
    .describe(
      "Absolute path or s3/gs/abfss/az URL. A name with the format's extension is a file, anything else a directory. Null: the workspace's results location.",
    ),
  mode: OutputMode.default("error").describe("What to do when the destination (of each partition) already holds data."),
  options: z.record(z.string().max(100), z.json()).default({}).describe("Keyword arguments of Polars' own sink."),
  storageOptions: z
    .record(z.string().max(200), z.string().max(32_768))
    .default({})
    .describe("Credentials for the destination; kept encrypted."),
});
export type Output = z.infer<typeof Output>;

/** A key column: by name, or a Polars expression over source columns (binary `Expr.meta.serialize`, base64). */
export const PartitionKey = z.strictObject({
  name: z.string().min(1).max(500),
  expr: z.base64().max(1_000_000).nullable().default(null),
});
export type PartitionKey = z.infer<typeof PartitionKey>;
export const PartitionBy = z.strictObject({
  keys: z.array(PartitionKey).min(1).max(PARTITION_COLUMNS_MAX),
  maxKeys: z
    .int()
    .min(1)
    .max(KEYS_MAX, `a job may have at most ${KEYS_MAX} keys; choose a coarser key, or send several jobs`)
    .default(KEYS_DEFAULT_MAX),
});
export type PartitionBy = z.infer<typeof PartitionBy>;

export const EngineChoice = z.enum(["auto", "streaming", "in-memory", "gpu"]);
export type EngineChoice = z.infer<typeof EngineChoice>;

/** Where a job runs: machines by shape, one started cluster by id, or (both null) the workspace's default context. */
export const JobSpec = z.strictObject({
  name: z.string().min(1).max(200).nullable().default(null),
  labels: z.record(z.string().min(1).max(63), z.string().max(256)).default({}),
  context: ComputeContext.nullable().default(null),
  clusterId: ClusterId.nullable().default(null),
  client: ClientVersions,
  engine: EngineChoice.default("auto"),
  scaling: z.enum(["auto", "single", "distributed"]).default("auto"),
  output: Output.prefault({}),
  partitionBy: PartitionBy.nullable().default(null),
  onFailure: z
    .enum(["continue", "cancel"])
    .default("continue")
    .describe("What the other tasks of a job do when one fails."),
  attemptsMax: z.int().min(1).max(ATTEMPTS_MAX).default(ATTEMPTS_DEFAULT_MAX),
  priority: z.int().min(0).max(100).default(PRIORITY_DEFAULT).describe("Higher runs first."),
  timeoutMs: z
    .int()
    .min(100)
    .max(TASK_TIMEOUT_MAX_MS)
    .default(TASK_TIMEOUT_DEFAULT_MS)
    .describe("Wall-clock limit of one attempt."),
  seed: z.int().min(0).nullable().default(null),
});
export type JobSpec = z.infer<typeof JobSpec>;

/** `POST /v1/jobs` with application/json: one query. */
export const SubmitJob = z.strictObject({ spec: JobSpec, plan: Plan });
export type SubmitJob = z.infer<typeof SubmitJob>;

/**
 * `POST /v1/jobs` with application/x-ndjson: many frames in one streamed request. The first line is `header`; then, in any number, a `plan` line
 * defines a plan under a number of the sender's choice and a `frames` line makes one frame (task) per listed plan number, in order.
 */
export const SubmitLine = z.discriminatedUnion("line", [
  z.strictObject({ line: z.literal("header"), spec: JobSpec }),
  z.strictObject({ line: z.literal("plan"), number: z.int().min(0), plan: Plan }),
  z.strictObject({ line: z.literal("frames"), plans: z.array(z.int().min(0)).max(100_000) }),
]);
export type SubmitLine = z.infer<typeof SubmitLine>;

/** An error as users see it. For user code, `type` and `module` name the exception, and the traceback shows the user's lines first. */
export const ErrorInfo = z.object({
  code: ErrorCode,
  message: z.string().max(ERROR_MESSAGE_CHARS_MAX),
  type: z.string().max(500).nullish().describe("Exception class name, such as ColumnNotFoundError."),
  module: z.string().max(500).nullish().describe("Module of the exception class."),
  traceback: z.string().max(ERROR_TRACEBACK_CHARS_MAX).nullish(),
  hint: z.string().max(2_000).nullish().describe("What to do next."),
});
export type ErrorInfo = z.infer<typeof ErrorInfo>;

export const ColumnSchema = z.object({ name: z.string(), dtype: z.string().describe("Polars' own name of the type.") });
export const EngineWarning = z.object({ category: z.string().max(200), message: z.string().max(4_000) });

/** What a task yielded. The data itself stays where `locations` says; a small result without a destination has none, and `head` is all of it. */
export const TaskResult = z.object({
  taskId: TaskId,
  frame: z.int().nullable(),
  key: z
    .record(z.string(), z.string().nullable())
    .nullable()
    .describe("Key columns and values as text; null for a null key."),
  locations: z.array(z.string()),
  format: OutputFormat,
  schema: z.array(ColumnSchema),
  rows: z.int(),
  bytes: z.int().nullable(),
  head: z
    .string()
    .nullable()
    .describe("First rows as a base64 Arrow IPC stream, at most 64 KiB; null when turned off or too wide."),
  warnings: z.array(EngineWarning),
});
export type TaskResult = z.infer<typeof TaskResult>;

export const TaskCounts = z.object({
  total: z.int(),
  queued: z.int(),
  running: z.int(),
  succeeded: z.int(),
  failed: z.int(),
  cancelled: z.int(),
});
export type TaskCounts = z.infer<typeof TaskCounts>;

const Timestamp = z.iso.datetime();

export const Job = z.object({
  id: JobId,
  name: z.string().nullable(),
  mode: JobMode,
  status: JobStatus,
  phase: z.string().nullable().describe("What is going on, in words, while the job is not done."),
  user: z.string(),
  labels: z.record(z.string(), z.string()),
  shape: z.object({ cloud: z.string(), cpus: z.int(), memoryGiB: z.number(), gpus: z.int(), clusterSize: z.int() }),
  clusterId: ClusterId.nullable(),
  engine: EngineChoice,
  polars: z.string(),
  python: z.string(),
  output: z.object({
    format: OutputFormat,
    destination: z.string().nullable(),
    mode: OutputMode,
    // Any JSON; not z.json(), a recursive schema that the OpenAPI document can't be made from.
    options: z.record(z.string(), z.unknown()),
  }),
  partitionBy: z.array(z.string()).nullable(),
  priority: z.int(),
  counts: TaskCounts,
  logLines: z.int(),
  error: ErrorInfo.nullable(),
  retryOf: JobId.nullable(),
  createdAt: Timestamp,
  startedAt: Timestamp.nullable(),
  finishedAt: Timestamp.nullable(),
  revision: z.int().describe("Grows with every change; give it to /wait to be told of the next one."),
  result: TaskResult.nullable().describe("Of a single query that has succeeded."),
});
export type Job = z.infer<typeof Job>;

export const Task = z.object({
  id: TaskId,
  jobId: JobId,
  status: TaskStatus,
  frame: z.int().nullable(),
  key: z.record(z.string(), z.string().nullable()).nullable(),
  attempt: z.int(),
  phase: z.string().nullable(),
  error: ErrorInfo.nullable(),
  createdAt: Timestamp,
  startedAt: Timestamp.nullable(),
  finishedAt: Timestamp.nullable(),
});
export type Task = z.infer<typeof Task>;

/** Failures of a job that are alike, grouped. */
export const FailureGroup = z.object({
  error: ErrorInfo,
  count: z.int(),
  exampleTaskId: TaskId,
  frames: z.array(z.int()).max(20),
});
export type FailureGroup = z.infer<typeof FailureGroup>;

export const LogLine = z.object({
  id: z.string(),
  at: Timestamp,
  taskId: TaskId.nullable(),
  attempt: z.int(),
  stream: z.enum(["stdout", "stderr", "system"]),
  text: z.string(),
});
export type LogLine = z.infer<typeof LogLine>;

export const Cluster = z.object({
  id: ClusterId,
  name: z.string().nullable(),
  status: ClusterStatus,
  shape: Job.shape.shape,
  idleTimeoutSeconds: z.int(),
  nodes: z.object({ ready: z.int(), total: z.int() }),
  activeJobs: z.int(),
  error: ErrorInfo.nullable(),
  createdAt: Timestamp,
  readyAt: Timestamp.nullable(),
  finishedAt: Timestamp.nullable(),
});
export type Cluster = z.infer<typeof Cluster>;

export const StartCluster = z.strictObject({
  context: ComputeContext,
  name: z.string().min(1).max(200).nullable().default(null),
});

export const Me = z.object({
  workspace: z.object({ id: z.string(), name: z.string() }),
  user: z.string(),
  serverVersion: z.string(),
  defaultContext: ComputeContext,
  resultsLocation: z.string(),
  polars: z.array(z.string()).describe("Releases whose plans this installation runs."),
});
export type Me = z.infer<typeof Me>;

export const Workspace = z.object({
  id: z.string(),
  name: z.string(),
  tasksRunningMax: z
    .int()
    .nullable()
    .describe("Tasks that may be on nodes at once, over all clusters; null: as many as there are slots."),
  tasksRunning: z.int().describe("Tasks that are on nodes now."),
});
export type Workspace = z.infer<typeof Workspace>;

export const ChangeWorkspace = z.strictObject({
  tasksRunningMax: z.int().min(1).max(TASKS_PER_JOB_MAX).nullable(),
});

/** Pages are keyset pages: give `nextCursor` back as `cursor`. */
export function pageOf<T extends z.ZodType>(item: T) {
  return z.object({ items: z.array(item), nextCursor: z.string().nullable() });
}
