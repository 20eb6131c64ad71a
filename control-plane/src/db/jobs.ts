import type { ClusterShape, ErrorInfo, JobMode, JobSpec, JobStatus, TaskKind } from "@frazil/contracts";
import { decideJobEnd, type JobTally, summariseFailures } from "../domain/job-outcome.ts";
import { JOB, sources, target } from "../domain/lifecycles.ts";
import type { Sql } from "./pool.ts";

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
  readonly log_lines: number;
  readonly error: ErrorInfo | null;
  readonly retry_of: string | null;
  readonly cancel_requested_at: Date | null;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
}

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
  readonly planIds: readonly string[];
}

/** Statuses of clusters that can take a job: a warm one first. */
const OPEN_CLUSTERS = `('ready', 'starting', 'requested')`;

/**
 * Inserts a job with its tasks and its first event. It is given a warm cluster of its shape at once when there is one, so that it crosses no queue.
 * Undefined when the idempotency key was used before.
 */
export async function insertJob(sql: Sql, job: NewJob, tasks: NewTasks): Promise<JobRow | undefined> {
  const splits = tasks.kind === "split" ? tasks.ids.length : 0;
  const { spec } = job;
  const rows = await sql.query<JobRow>({
    name: "insert-job",
    text: `WITH warm AS (
        SELECT id FROM clusters WHERE workspace_id = $2 AND shape_hash = $3 AND status IN ${OPEN_CLUSTERS} AND $4::text IS NULL
        ORDER BY status = 'ready' DESC, id LIMIT 1
      ), job AS (
        INSERT INTO jobs (id, workspace_id, user_name, name, mode, status, phase, labels, spec, sealed, shape, cluster_id, cluster_pinned, polars, python,
          priority, attempts_max, idempotency_key, request_hash, splits_open, tasks_total, retry_of)
        VALUES ($1, $2, $5, $6, $7, 'queued', $23, $8, $9, $10, $11, coalesce($4, (SELECT id FROM warm)), $4::text IS NOT NULL, $12, $13,
          $14, $15, $16, $17, $18, $19, $20)
        ON CONFLICT (workspace_id, idempotency_key) DO NOTHING
        RETURNING *
      ), added AS (
        INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, plan_id, attempts_max)
        SELECT t.id, $1, $2, $21, 'queued', t.ordinal - 1, t.frame, t.plan_id, $15
        FROM unnest($22::text[], $24::int[], $25::text[]) WITH ORDINALITY AS t(id, frame, plan_id, ordinal)
        WHERE EXISTS (SELECT 1 FROM job)
      ), event AS (
        INSERT INTO events (workspace_id, job_id, event, data) SELECT $2, $1, 'submit', jsonb_build_object('tasks', $26::int) FROM job
      )
      SELECT * FROM job`,
    values: [
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
      tasks.ids.length - splits,
      job.retryOf,
      tasks.kind,
      tasks.ids,
      "waiting for a node",
      tasks.frames,
      tasks.planIds,
      tasks.ids.length,
    ],
  });
  return rows[0];
}

export async function loadJob(sql: Sql, jobId: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({ name: "load-job", text: "SELECT * FROM jobs WHERE id = $1", values: [jobId] });
  return rows[0];
}

/** A job of the workspace, with how many of its tasks are on nodes right now. */
export async function loadJobOf(sql: Sql, workspaceId: string, jobId: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    name: "load-job-of",
    text: `SELECT j.*, (SELECT count(*)::int FROM tasks t WHERE t.job_id = j.id AND t.kind <> 'split' AND t.status IN ('leased', 'running', 'publishing')
        AND j.status IN ('queued', 'running')) AS tasks_running
      FROM jobs j WHERE j.id = $1 AND j.workspace_id = $2`,
    values: [jobId, workspaceId],
  });
  return rows[0];
}

export async function findJobByKey(sql: Sql, workspaceId: string, key: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    text: "SELECT * FROM jobs WHERE workspace_id = $1 AND idempotency_key = $2",
    values: [workspaceId, key],
  });
  return rows[0];
}

export interface Tally {
  readonly jobId: string;
  readonly succeeded: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly splitsDone: number;
  readonly added: number;
}

/** Adds to a job's counts. Call it once per job and transaction, in the order of job ids, so that two batches can't deadlock. */
export async function tallyJob(sql: Sql, tally: Tally): Promise<JobRow> {
  const rows = await sql.query<JobRow>({
    name: "tally-job",
    text: `UPDATE jobs SET tasks_succeeded = tasks_succeeded + $2, tasks_failed = tasks_failed + $3, tasks_cancelled = tasks_cancelled + $4,
        splits_open = splits_open - $5, tasks_total = tasks_total + $6, revision = revision + 1 WHERE id = $1 RETURNING *`,
    values: [tally.jobId, tally.succeeded, tally.failed, tally.cancelled, tally.splitsDone, tally.added],
  });
  return rows[0] as JobRow;
}

export function tallyOf(job: JobRow): JobTally {
  return {
    splitsOpen: job.splits_open,
    total: job.tasks_total,
    succeeded: job.tasks_succeeded,
    failed: job.tasks_failed,
    cancelled: job.tasks_cancelled,
    cancelRequested: job.cancel_requested_at !== null,
  };
}

/** Ends the job if nothing of it is open. Idempotent: a job that ended stays as it is. */
export async function endJobIfDone(sql: Sql, job: JobRow): Promise<JobRow> {
  const end = decideJobEnd(tallyOf(job));
  if (end === undefined || !sources(JOB, end).includes(job.status)) return job;
  const error = summariseFailures(tallyOf(job), job.tasks_failed > 0 ? await firstFailure(sql, job.id) : null);
  const rows = await sql.query<JobRow>({
    name: "end-job",
    text: `WITH done AS (
        UPDATE jobs SET status = $2, phase = NULL, error = coalesce($3, error), finished_at = now(), revision = revision + 1
        WHERE id = $1 AND status = ANY($4) RETURNING *
      ), event AS (INSERT INTO events (workspace_id, job_id, event) SELECT workspace_id, id, $5 FROM done)
      , busy AS (UPDATE clusters SET busy_at = now() FROM done WHERE clusters.id = done.cluster_id)
      SELECT * FROM done`,
    values: [job.id, target(JOB, end), error, sources(JOB, end), end],
  });
  return rows[0] ?? job;
}

async function firstFailure(sql: Sql, jobId: string): Promise<ErrorInfo | null> {
  const rows = await sql.query<{ error: ErrorInfo }>({
    text: "SELECT error FROM tasks WHERE job_id = $1 AND status = 'failed' ORDER BY ordinal LIMIT 1",
    values: [jobId],
  });
  return rows[0]?.error ?? null;
}

export async function placeJob(sql: Sql, jobId: string, clusterId: string): Promise<boolean> {
  const rows = await sql.query({
    text: `WITH placed AS (UPDATE jobs SET cluster_id = $2, revision = revision + 1, due_at = now() WHERE id = $1 AND cluster_id IS NULL AND status IN ('queued', 'running')
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
    text: `UPDATE jobs SET cluster_id = NULL, phase = 'waiting for a node', revision = revision + 1, due_at = now()
      WHERE cluster_id = $1 AND status IN ('queued', 'running') AND NOT cluster_pinned RETURNING id`,
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

export async function setClusterPhase(sql: Sql, clusterId: string, phase: string): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `UPDATE jobs SET phase = $2, revision = revision + 1 WHERE cluster_id = $1 AND status = 'queued' AND phase IS DISTINCT FROM $2 RETURNING id`,
    values: [clusterId, phase],
  });
  return rows.map((row) => row.id);
}

export async function requestCancel(sql: Sql, workspaceId: string, jobId: string): Promise<JobRow | undefined> {
  const rows = await sql.query<JobRow>({
    text: `WITH asked AS (UPDATE jobs SET cancel_requested_at = now(), revision = revision + 1 WHERE id = $1 AND workspace_id = $2 AND status = ANY($3)
        AND cancel_requested_at IS NULL RETURNING *)
      , event AS (INSERT INTO events (workspace_id, job_id, event) SELECT workspace_id, id, 'cancel_request' FROM asked)
      SELECT * FROM asked`,
    values: [jobId, workspaceId, sources(JOB, "cancel")],
  });
  return rows[0];
}

/** Ids of jobs that wait for a cluster, oldest first. */
export async function findUnplaced(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: "SELECT id FROM jobs WHERE status IN ('queued', 'running') AND cluster_id IS NULL AND due_at <= now() ORDER BY id LIMIT $1",
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

export async function delayJob(sql: Sql, jobId: string, seconds: number): Promise<void> {
  await sql.query({
    text: "UPDATE jobs SET due_at = now() + make_interval(secs => $2) WHERE id = $1",
    values: [jobId, seconds],
  });
}
