import {
  type ClusterShape,
  type ErrorInfo,
  type JobMode,
  type JobSpec,
  type JobStatus,
  mintId,
  type TaskKind,
  type TaskResult,
} from "@frazil/contracts";
import { JOB, sources } from "../domain/lifecycles.ts";
import type { NewPlan } from "./plans.ts";
import type { Sql } from "./pool.ts";
import { asTaskResult, type ResultRow } from "./results.ts";

export interface JobRow {
  readonly id: string;
  readonly workspace_id: string;
  readonly user_name: string;
  readonly name: string | null;
  readonly mode: JobMode;
  readonly status: JobStatus;
  readonly revision: number;
  readonly phase: string | null;
  readonly labels: Record<string, string>;
  /** The submission without its secrets. */
  readonly spec: JobSpec;
  readonly sealed: Buffer;
  readonly shape: ClusterShape;
  readonly cluster_id: string | null;
  readonly cluster_pinned: boolean;
  readonly polars: string;
  readonly python: string;
  readonly priority: number;
  readonly attempts_max: number;
  readonly idempotency_key: string | null;
  readonly request_hash: Buffer | null;
  readonly splits_open: number;
  readonly tasks_total: number;
  readonly tasks_succeeded: number;
  readonly tasks_failed: number;
  readonly tasks_cancelled: number;
  readonly tasks_running?: number;
  /** Of a job that was just inserted with a plan. */
  readonly new_plan_id?: string;
  readonly log_lines: number;
  readonly error: ErrorInfo | null;
  readonly retry_of: string | null;
  readonly cancel_requested_at: Date | null;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
}

/** What lists show: all but what is sealed, and how many tasks are on nodes. */
export const JOB_COLUMNS = `id, workspace_id, user_name, name, mode, status, revision, phase, labels, spec, shape, cluster_id, cluster_pinned, polars, python,
  priority, splits_open, tasks_total, tasks_succeeded, tasks_failed, tasks_cancelled, log_lines, error, retry_of, created_at, started_at, finished_at,
  CASE WHEN status IN ('queued', 'running') THEN (SELECT count(*)::int FROM tasks t WHERE t.job_id = jobs.id AND t.kind <> 'split'
    AND t.status IN ('leased', 'running', 'publishing')) ELSE 0 END AS tasks_running`;

export interface NewJob {
  readonly id: string;
  readonly workspaceId: string;
  readonly userName: string;
  readonly mode: JobMode;
  readonly spec: JobSpec;
  readonly sealed: Buffer;
  readonly shape: ClusterShape;
  readonly shapeHash: string;
  readonly clusterId: string | null;
  readonly idempotencyKey: string | null;
  readonly requestHash: Buffer | null;
  readonly retryOf: string | null;
}

export interface NewTasks {
  readonly kind: TaskKind;
  readonly ids: readonly string[];
  readonly frames: readonly (number | null)[];
  /** Plans that were stored before, or null for the one in `newPlan`. */
  readonly planIds: readonly (string | null)[];
  /** How many more the caller inserts in the same transaction, with `insertTasks`. */
  readonly more: number;
  readonly newPlan: NewPlan | null;
  /** Lease the (only) task to this node at once, if it still serves. Its dispatcher has kept the slots free. */
  readonly claim: { readonly nodeId: string; readonly ttlMs: number } | null;
}

/** Statuses of clusters that can take a job: a warm one first. */
const OPEN_CLUSTERS = `('ready', 'starting', 'requested')`;

/**
 * Inserts a job with its tasks, its plan and its first events, in one statement. It is given a warm cluster of its shape when there is one, or the claimed
 * node itself, so that a warm job crosses no queue. Undefined when the idempotency key was used before.
 */
export async function insertJob(sql: Sql, job: NewJob, tasks: NewTasks): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    name: "insert-job",
    text: `WITH claimed AS (
        SELECT n.id, n.cluster_id FROM nodes n JOIN clusters c ON c.id = n.cluster_id
        WHERE n.id = $31 AND n.status = 'ready' AND c.status = 'ready' AND coalesce($4, c.id) = c.id
          AND (SELECT tasks_running_max FROM workspaces WHERE id = $2) IS NULL
      ), warm AS (
        SELECT id FROM clusters WHERE workspace_id = $2 AND shape_hash = $3 AND status IN ${OPEN_CLUSTERS} AND $4::text IS NULL
        ORDER BY status = 'ready' DESC, id LIMIT 1
      ), plan AS (
        INSERT INTO plans (id, workspace_id, hash, kind, sealed, size_bytes) SELECT $26, $2, $27, $28, $29, $30 WHERE $26::text IS NOT NULL
        ON CONFLICT (workspace_id, hash) DO UPDATE SET created_at = now() RETURNING id
      ), job AS (
        INSERT INTO jobs (id, workspace_id, user_name, name, mode, status, phase, labels, spec, sealed, shape, cluster_id, cluster_pinned, polars, python,
          priority, attempts_max, idempotency_key, request_hash, splits_open, tasks_total, retry_of, started_at, leased_at)
        SELECT $1, $2, $5, $6, $7, CASE WHEN claimed THEN 'running' ELSE 'queued' END, CASE WHEN NOT claimed THEN 'waiting for a node' END, $8, $9, $10, $11,
          coalesce($4, (SELECT cluster_id FROM claimed), (SELECT id FROM warm)), $4::text IS NOT NULL, $12, $13, $14, $15, $16, $17, $18, $19, $20,
          CASE WHEN claimed THEN now() END, CASE WHEN claimed THEN now() END
        FROM (SELECT EXISTS (SELECT 1 FROM claimed) AS claimed) c
        ON CONFLICT (workspace_id, idempotency_key) DO NOTHING
        RETURNING *
      ), added AS (
        INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, plan_id, attempts_max, attempt, node_id, lease_expires_at)
        SELECT t.id, $1, $2, $21, CASE WHEN c.id IS NULL THEN 'queued' ELSE 'leased' END, t.ordinal - 1, t.frame,
          coalesce(t.plan_id, (SELECT id FROM plan)), $15, CASE WHEN c.id IS NULL THEN 0 ELSE 1 END, c.id,
          CASE WHEN c.id IS NOT NULL THEN now() + make_interval(secs => $32) END
        FROM unnest($22::text[], $23::int[], $24::text[]) WITH ORDINALITY AS t(id, frame, plan_id, ordinal) LEFT JOIN claimed c ON true
        WHERE EXISTS (SELECT 1 FROM job)
        RETURNING id, attempt, node_id
      ), tried AS (
        INSERT INTO attempts (task_id, number, job_id, workspace_id, node_id, status)
        SELECT id, attempt, $1, $2, node_id, 'leased' FROM added WHERE node_id IS NOT NULL
      ), events AS (
        INSERT INTO events (workspace_id, job_id, task_id, node_id, event, data)
        SELECT $2, $1, NULL, NULL, 'submit', jsonb_build_object('tasks', $25::int) FROM job
        UNION ALL SELECT $2, $1, id, node_id, 'lease', jsonb_build_object('attempt', attempt) FROM added WHERE node_id IS NOT NULL
      )
      SELECT job.*, (SELECT id FROM plan) AS new_plan_id FROM job`,
    values: insertValues(job, tasks),
  });
  return rows[0];
}

function insertValues(job: NewJob, tasks: NewTasks): unknown[] {
  const { spec } = job;
  const { newPlan, claim } = tasks;
  const count = tasks.ids.length + tasks.more;
  const splits = tasks.kind === "split" ? count : 0;
  return [
    job.id,
    job.workspaceId,
    job.shapeHash,
    job.clusterId,
    job.userName,
    spec.name,
    job.mode,
    spec.labels,
    spec,
    job.sealed,
    job.shape,
    spec.client.polars,
    spec.client.python,
    spec.priority,
    spec.attemptsMax,
    job.idempotencyKey,
    job.requestHash,
    splits,
    count - splits,
    job.retryOf,
    tasks.kind,
    tasks.ids,
    tasks.frames,
    tasks.planIds,
    count,
    newPlan === null ? null : mintId("plan"),
    newPlan?.hash ?? null,
    newPlan?.kind ?? null,
    newPlan?.sealed ?? null,
    newPlan?.sizeBytes ?? null,
    claim?.nodeId ?? null,
    (claim?.ttlMs ?? 0) / 1_000,
  ];
}

/** Inserts tasks of a job that was inserted without them, as its frames from `from` on, of plans that were stored before. */
export async function insertTasks(
  sql: Sql,
  job: Pick<JobRow, "id" | "workspace_id" | "attempts_max">,
  kind: TaskKind,
  from: number,
  planIds: readonly string[],
): Promise<void> {
  await sql.query({
    name: "insert-tasks",
    text: `INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, plan_id, attempts_max)
      SELECT t.id, $1, $2, $3, 'queued', $5 + t.place - 1, $5 + t.place - 1, t.plan_id, $4
      FROM unnest($6::text[], $7::text[]) WITH ORDINALITY AS t(id, plan_id, place)`,
    values: [job.id, job.workspace_id, kind, job.attempts_max, from, planIds.map(() => mintId("task")), planIds],
  });
}

export async function loadJob(sql: Sql, jobId: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({ name: "load-job", text: "SELECT * FROM jobs WHERE id = $1", values: [jobId] });
  return rows[0];
}

export interface JobReading {
  readonly job: JobRow;
  /** Of a single query that has succeeded. */
  readonly result: TaskResult | null;
}

/** A job of the workspace, with how many of its tasks are on nodes right now, and the result of a single query. */
export async function loadJobOf(sql: Sql, workspaceId: string, jobId: string): Promise<JobReading | undefined> {
  const rows = await sql.query<JobRow & { result: ResultRow | null; result_head: Buffer | null }>({
    name: "load-job-of",
    text: `SELECT j.*, (SELECT count(*)::int FROM tasks t WHERE t.job_id = j.id AND t.kind <> 'split' AND t.status IN ('leased', 'running', 'publishing')
        AND j.status IN ('queued', 'running')) AS tasks_running,
        to_jsonb(r) - 'head' AS result, r.head AS result_head
      FROM jobs j LEFT JOIN results r ON r.job_id = j.id AND r.ordinal = 0 AND j.mode = 'single' AND j.status = 'succeeded'
      WHERE j.id = $1 AND j.workspace_id = $2`,
    values: [jobId, workspaceId],
  });
  const [row] = rows;
  if (row === undefined) return undefined;
  const { result, result_head: head, ...job } = row;
  return { job, result: result === null ? null : asTaskResult({ ...result, head, frame: null, key: null }) };
}

export async function findJobByKey(sql: Sql, workspaceId: string, key: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    text: "SELECT * FROM jobs WHERE workspace_id = $1 AND idempotency_key = $2",
    values: [workspaceId, key],
  });
  return rows[0];
}

export async function placeJob(sql: Sql, jobId: string, clusterId: string): Promise<boolean> {
  const rows = await sql.query({
    text: `WITH placed AS (UPDATE jobs SET cluster_id = $2, revision = revision + 1 WHERE id = $1 AND cluster_id IS NULL AND status IN ('queued', 'running')
        RETURNING workspace_id), event AS (INSERT INTO events (workspace_id, job_id, cluster_id, event) SELECT workspace_id, $1, $2, 'place' FROM placed)
      SELECT 1 FROM placed`,
    values: [jobId, clusterId],
  });
  return rows.length > 0;
}

/** Jobs that were asked to run on this very cluster. */
export async function findPinned(sql: Sql, clusterId: string): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: "SELECT id FROM jobs WHERE cluster_id = $1 AND cluster_pinned AND status IN ('queued', 'running')",
    values: [clusterId],
  });
  return rows.map((row) => row.id);
}

/** All open jobs of a cluster. */
export async function findOpenJobs(sql: Sql, clusterId: string): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: "SELECT id FROM jobs WHERE cluster_id = $1 AND status IN ('queued', 'running')",
    values: [clusterId],
  });
  return rows.map((row) => row.id);
}

/** Takes the jobs of a cluster that will not run them off it, so that they are placed anew. Pinned ones are left to the caller. */
export async function unplaceJobs(sql: Sql, clusterId: string): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `WITH open AS MATERIALIZED (SELECT id FROM jobs WHERE cluster_id = $1 AND status IN ('queued', 'running') AND NOT cluster_pinned
        ORDER BY id FOR NO KEY UPDATE)
      UPDATE jobs SET cluster_id = NULL, phase = 'waiting for a node', revision = revision + 1 FROM open
      WHERE jobs.id = open.id RETURNING jobs.id`,
    values: [clusterId],
  });
  return rows.map((row) => row.id);
}

export async function setPhase(sql: Sql, jobId: string, phase: string): Promise<boolean> {
  const rows = await sql.query({
    text: `UPDATE jobs SET phase = $2, revision = revision + 1 WHERE id = $1 AND status IN ('queued', 'running') AND phase IS DISTINCT FROM $2 RETURNING 1`,
    values: [jobId, phase],
  });
  return rows.length > 0;
}

/** Says what jobs wait for that have not begun. Returns those of which something else was said. */
export async function setWaitingPhase(sql: Sql, jobIds: readonly string[], phase: string): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `WITH queued AS MATERIALIZED (SELECT id FROM jobs WHERE id = ANY($1) AND status = 'queued' AND phase IS DISTINCT FROM $2
        ORDER BY id FOR NO KEY UPDATE)
      UPDATE jobs SET phase = $2, revision = revision + 1 FROM queued WHERE jobs.id = queued.id RETURNING jobs.id`,
    values: [jobIds, phase],
  });
  return rows.map((row) => row.id);
}

export async function setClusterPhase(sql: Sql, clusterId: string, phase: string): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `WITH queued AS MATERIALIZED (SELECT id FROM jobs WHERE cluster_id = $1 AND status = 'queued' AND phase IS DISTINCT FROM $2
        ORDER BY id FOR NO KEY UPDATE)
      UPDATE jobs SET phase = $2, revision = revision + 1 FROM queued WHERE jobs.id = queued.id RETURNING jobs.id`,
    values: [clusterId, phase],
  });
  return rows.map((row) => row.id);
}

/**
 * From here on nothing of the job starts. What is open of it is to fail with `error`, or to be cancelled where there is none. False: it had ended, or was
 * asked to stop before; but what a cancel leaves, because it is being published, may still be told to fail.
 */
export async function requestStop(sql: Sql, jobId: string, error: ErrorInfo | null): Promise<boolean> {
  const rows = await sql.query({
    text: `WITH asked AS (UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, now()), error = coalesce($2, error), revision = revision + 1
        WHERE id = $1 AND status = ANY($3) AND (cancel_requested_at IS NULL OR ($2::jsonb IS NOT NULL AND error IS NULL)) RETURNING workspace_id),
      event AS (INSERT INTO events (workspace_id, job_id, event) SELECT workspace_id, $1, 'cancel_request' FROM asked WHERE $2::jsonb IS NULL)
      SELECT 1 FROM asked`,
    values: [jobId, error, sources(JOB, "cancel")],
  });
  return rows.length > 0;
}

/** The job, locked: before any of its tasks are. */
export async function lockJob(sql: Sql, jobId: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    text: "SELECT * FROM jobs WHERE id = $1 FOR NO KEY UPDATE",
    values: [jobId],
  });
  return rows[0];
}

/** The job if it is open and was asked to stop, locked: before any of its tasks are. */
export async function lockStopping(sql: Sql, jobId: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    text: `SELECT * FROM jobs WHERE id = $1 AND status = ANY($2) AND cancel_requested_at IS NOT NULL FOR NO KEY UPDATE`,
    values: [jobId, sources(JOB, "cancel")],
  });
  return rows[0];
}

/** Ids of jobs that were asked to stop and have not ended. */
export async function findStopping(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: "SELECT id FROM jobs WHERE status IN ('queued', 'running') AND cancel_requested_at IS NOT NULL ORDER BY id LIMIT $1",
    values: [limit],
  });
  return rows.map((row) => row.id);
}

/** Ids of jobs that wait for a cluster, oldest first. */
export async function findUnplaced(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: "SELECT id FROM jobs WHERE status IN ('queued', 'running') AND cluster_id IS NULL ORDER BY id LIMIT $1",
    values: [limit],
  });
  return rows.map((row) => row.id);
}

/** Ids of open jobs of which nothing is open: what `finish` ends, should a crash have come between. */
export async function findUnfinished(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `SELECT id FROM jobs WHERE status IN ('queued', 'running') AND splits_open = 0
        AND tasks_succeeded + tasks_failed + tasks_cancelled >= tasks_total ORDER BY id LIMIT $1`,
    values: [limit],
  });
  return rows.map((row) => row.id);
}
