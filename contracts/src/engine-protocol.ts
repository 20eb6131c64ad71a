import { z } from "zod";
import { ColumnSchema, EngineChoice, EngineWarning, ErrorInfo, Output, PartitionBy } from "./job-api.ts";
import { TaskKind } from "./statuses.ts";

/**
 * What the agent and an engine say to each other over two pipes (engine's fd 3 in, fd 4 out).
 * A frame is: u32 LE header length, u32 LE body length, the header as UTF-8 JSON (one of these messages), the body bytes.
 * The body of `run` is the plan; the body of `done` is the head (Arrow IPC stream); every other body is empty.
 * The engine's stdout and stderr are the user's and never carry protocol.
 */
export const TaskRef = z.strictObject({
  taskId: z.string(),
  attempt: z.int().min(1),
  /** Position in a `many` submission. */
  frame: z.int().min(0).nullable(),
  /** Of a key task: the engine's own opaque token from `keys`, and the Hive path (`day=2024-01-01/x=a%2Fb`). */
  keyToken: z.string().nullable(),
  keyPath: z.string().nullable(),
});
export type TaskRef = z.infer<typeof TaskRef>;

/** Opaque to everything but the engine: written by `staged`, and enough for any engine to finish the publishing. */
export const Manifest = z.record(z.string(), z.json());
export type Manifest = z.infer<typeof Manifest>;

/**
 * Run one plan: once (`query`), to find its keys (`split`), or once per listed key with one shared read (`key`, many tasks). A `query` run can list many
 * tasks, each with a plan of its own: the body is then all plans, one behind the other. They are run and answered in that order; an `abandon` before a
 * task's turn leaves it out, with `failed`.
 */
export const EngineRun = z.strictObject({
  type: z.literal("run"),
  kind: TaskKind,
  jobId: z.string(),
  tasks: z.array(TaskRef).min(1),
  plan: z.strictObject({
    kind: z.enum(["dsl", "sql"]),
    bytes: z.array(z.int().min(0)).describe("Sizes of the plans."),
  }),
  engine: EngineChoice,
  output: Output,
  /** Directory or URL under which results without a destination are kept: `<resultsLocation>/<jobId>/<taskId>/<attempt>.<ext>`. */
  resultsLocation: z.string(),
  partitionBy: PartitionBy.nullable(),
  /** What `split` handed on to the key tasks (opaque). */
  splitState: z.json(),
  threads: z.int().min(1),
  memoryBytes: z.int().min(1),
  seed: z.int().nullable(),
  cwd: z.string().nullable(),
  headBytesMax: z.int().min(0),
});
export type EngineRun = z.infer<typeof EngineRun>;

export const ToEngine = z.discriminatedUnion("type", [
  EngineRun,
  /** The attempt was fenced: make its staged output visible, then say `done`. */
  z.strictObject({ type: z.literal("publish"), taskId: z.string() }),
  /** The attempt lost the task: remove what was staged. No answer but `failed` with code `stale_attempt`. */
  z.strictObject({ type: z.literal("abandon"), taskId: z.string() }),
  /** Finish the publishing that another engine began; answer with `done` or `failed`, then `idle`. */
  z.strictObject({
    type: z.literal("republish"),
    jobId: z.string(),
    task: TaskRef,
    manifest: Manifest,
    storageOptions: z.record(z.string(), z.string()),
    cwd: z.string().nullable(),
  }),
  /** Remove what attempts of an ended job left behind; answer with `swept`, then `idle`. */
  z.strictObject({
    type: z.literal("sweep"),
    jobId: z.string(),
    /** Attempts whose results, where there is no destination, are nobody's. */
    attempts: z.array(z.object({ taskId: z.string(), attempt: z.int() })),
    output: Output,
    resultsLocation: z.string(),
    cwd: z.string().nullable(),
  }),
  z.strictObject({ type: z.literal("exit") }),
]);
export type ToEngine = z.infer<typeof ToEngine>;

export const EngineResult = z.object({
  locations: z.array(z.string()),
  schema: z.array(ColumnSchema),
  rows: z.int(),
  bytes: z.int().nullable(),
  warnings: z.array(EngineWarning),
});
export type EngineResult = z.infer<typeof EngineResult>;

export const EngineUsage = z.object({ wallMs: z.number(), cpuMs: z.number() });

export const FoundKey = z.object({
  /** Column name to text; null for a null key. */
  values: z.record(z.string(), z.string().nullable()),
  path: z.string(),
  token: z.string(),
});
export type FoundKey = z.infer<typeof FoundKey>;

export const FromEngine = z.discriminatedUnion("type", [
  z.object({ type: z.literal("ready"), python: z.string(), polars: z.string(), pid: z.int() }),
  /** Said once per plan as soon as it was opened, and for the later plans of a run only where it changes. After `python: true` the engine serves only the same user. */
  z.object({ type: z.literal("opened"), python: z.boolean() }),
  z.object({ type: z.literal("progress"), taskId: z.string(), phase: z.string().max(200) }),
  z.object({
    type: z.literal("log"),
    taskId: z.string().nullable(),
    stream: z.enum(["stdout", "stderr"]),
    text: z.string(),
  }),
  /** Answer to a `split` run, instead of `done`. */
  z.object({
    type: z.literal("keys"),
    taskId: z.string(),
    keys: z.array(FoundKey),
    splitState: z.json(),
    /** The input lies repartitioned among the results, until the ended job is swept. */
    stored: z.boolean().optional(),
    usage: EngineUsage,
  }),
  /** The output lies staged; the engine waits for `publish` or `abandon` (of this task; other tasks of the run go on). */
  z.object({ type: z.literal("staged"), taskId: z.string(), manifest: Manifest }),
  z.object({ type: z.literal("done"), taskId: z.string(), result: EngineResult, usage: EngineUsage }),
  z.object({
    type: z.literal("failed"),
    taskId: z.string(),
    error: ErrorInfo,
    retryable: z.boolean(),
    usage: EngineUsage,
  }),
  /** Answer to `sweep`. */
  z.object({ type: z.literal("swept"), error: ErrorInfo.nullable() }),
  /** The run is over: every task of it was answered. */
  z.object({ type: z.literal("idle") }),
]);
export type FromEngine = z.infer<typeof FromEngine>;
