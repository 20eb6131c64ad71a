import type { ErrorInfo } from "@frazil/contracts";
import { decideJobEnd, type JobTally, summariseFailures } from "../domain/job-outcome.ts";
import { JOB, type JobEvent, sources, TASK, target } from "../domain/lifecycles.ts";
import type { JobRow } from "./jobs.ts";
import type { Sql } from "./pool.ts";
import type { NewResult } from "./results.ts";

export interface Tally {
  readonly jobId: string;
  readonly succeeded: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly splitsDone: number;
  readonly added: number;
  /** Attempts may have left something in storage. */
  readonly leftovers: boolean;
}

/** What is known of a job when it was locked. */
export type LockedJob = Pick<
  JobRow,
  | "id"
  | "status"
  | "cluster_id"
  | "splits_open"
  | "tasks_total"
  | "tasks_succeeded"
  | "tasks_failed"
  | "tasks_cancelled"
>;

/**
 * Adds to the counts of a locked job, and ends it if nothing of it is open then. Call it once per job and transaction. Idempotent: a job that ended stays as
 * it is.
 */
export async function tallyJob(sql: Sql, job: LockedJob, tally: Tally): Promise<JobRow> {
  const counts: JobTally = {
    splitsOpen: job.splits_open - tally.splitsDone,
    total: job.tasks_total + tally.added,
    succeeded: job.tasks_succeeded + tally.succeeded,
    failed: job.tasks_failed + tally.failed,
    cancelled: job.tasks_cancelled + tally.cancelled,
  };
  const end = decideJobEnd(counts);
  if (end === undefined || !sources(JOB, end).includes(job.status)) return addCounts(sql, tally);
  const error = counts.failed > 0 ? summariseFailures(counts, await firstFailure(sql, job.id)) : null;
  return endJob(sql, tally, end, error);
}

const COUNTED = `tasks_succeeded = tasks_succeeded + $2, tasks_failed = tasks_failed + $3, tasks_cancelled = tasks_cancelled + $4,
  splits_open = splits_open - $5, tasks_total = tasks_total + $6, leftovers = leftovers OR $7, revision = revision + 1`;
const countedValues = (tally: Tally) => [
  tally.jobId,
  tally.succeeded,
  tally.failed,
  tally.cancelled,
  tally.splitsDone,
  tally.added,
  tally.leftovers,
];

async function addCounts(sql: Sql, tally: Tally): Promise<JobRow> {
  const rows = await sql.query<JobRow>({
    name: "tally-job",
    text: `UPDATE jobs SET ${COUNTED} WHERE id = $1 RETURNING *`,
    values: countedValues(tally),
  });
  return rows[0] as JobRow;
}

/** Attempts that were ended with their job have ended by then; one that says so later has the job swept again. */
const SWEEP_AFTER_SECONDS = 1;

async function endJob(sql: Sql, tally: Tally, end: JobEvent, error: ErrorInfo | null): Promise<JobRow> {
  const rows = await sql.query<JobRow>({
    name: "end-job",
    text: `WITH done AS (
        UPDATE jobs SET ${COUNTED}, status = $8, phase = NULL, error = CASE WHEN $8 = 'failed' THEN coalesce($9, error) END, finished_at = now(),
          sweep_due_at = CASE WHEN leftovers OR $7 THEN now() + make_interval(secs => $11) END
        WHERE id = $1 RETURNING *
      ), event AS (INSERT INTO events (workspace_id, job_id, event) SELECT workspace_id, id, $10 FROM done)
      , busy AS (UPDATE clusters SET busy_at = now() FROM done WHERE clusters.id = done.cluster_id)
      SELECT * FROM done`,
    values: [...countedValues(tally), target(JOB, end), error, end, SWEEP_AFTER_SECONDS],
  });
  return rows[0] as JobRow;
}

async function firstFailure(sql: Sql, jobId: string): Promise<ErrorInfo | null> {
  const rows = await sql.query<{ error: ErrorInfo }>({
    text: "SELECT error FROM tasks WHERE job_id = $1 AND status = 'failed' ORDER BY ordinal LIMIT 1",
    values: [jobId],
  });
  return rows[0]?.error ?? null;
}

export interface SucceededAttempt extends Pick<NewResult, "result" | "head"> {
  readonly taskId: string;
  readonly attempt: number;
  readonly nodeId: string;
  readonly usage: { wallMs: number; cpuMs: number; peakMemoryBytes: number } | null;
}

/**
 * Ends a job of one query whose live attempt has succeeded: what `applyOutcomes`, `insertResults` and `tallyJob` do, in one statement, because somebody
 * waits for it. Undefined, and nothing is changed, when the attempt is not live or the job is another one.
 */
export async function finishSingle(sql: Sql, attempt: SucceededAttempt): Promise<JobRow | undefined> {
  const { result, usage } = attempt;
  const rows = await sql.query<JobRow>({
    name: "finish-single",
    // The job is locked before its task, as everywhere.
    text: `WITH job AS MATERIALIZED (
        SELECT id, spec -> 'output' ->> 'format' AS format FROM jobs WHERE id = (SELECT job_id FROM tasks WHERE id = $1)
          AND mode = 'single' AND status = ANY($4) AND splits_open = 0 AND tasks_total = 1 AND tasks_succeeded + tasks_failed + tasks_cancelled = 0
        FOR NO KEY UPDATE
      ), t AS (
        UPDATE tasks SET status = $6, node_id = NULL, lease_expires_at = NULL, phase = NULL, error = NULL, not_before = NULL, finished_at = now(),
          started_at = coalesce(tasks.started_at, now() - make_interval(secs => $7::float8 / 1000))
        FROM job WHERE tasks.id = $1 AND tasks.job_id = job.id AND tasks.kind = 'query' AND tasks.attempt = $2 AND tasks.node_id = $3 AND tasks.status = ANY($5)
        RETURNING tasks.id, tasks.job_id, tasks.workspace_id, tasks.ordinal, tasks.attempt, job.format
      ), tried AS (
        UPDATE attempts SET status = 'succeeded', finished_at = now(), error = NULL, wall_ms = $7, cpu_ms = $8, peak_memory_bytes = $9
        FROM t WHERE attempts.task_id = t.id AND attempts.number = t.attempt
      ), kept AS (
        INSERT INTO results (task_id, job_id, workspace_id, ordinal, attempt, locations, format, columns, rows, bytes, head, warnings)
        SELECT id, job_id, workspace_id, ordinal, attempt, $10, format, $11, $12, $13, $14, $15 FROM t
      ), done AS (
        UPDATE jobs SET status = $16, phase = NULL, error = NULL, tasks_succeeded = 1, finished_at = now(), revision = revision + 1,
          sweep_due_at = CASE WHEN leftovers THEN now() + make_interval(secs => ${SWEEP_AFTER_SECONDS}) END
        FROM t WHERE jobs.id = t.job_id RETURNING jobs.*
      ), event AS (
        INSERT INTO events (workspace_id, job_id, task_id, event, data)
        SELECT workspace_id, job_id, id, 'finish', jsonb_build_object('attempt', attempt, 'code', NULL) FROM t
        UNION ALL SELECT workspace_id, id, NULL, 'succeed', NULL FROM done
      ), busy AS (UPDATE clusters SET busy_at = now() FROM done WHERE clusters.id = done.cluster_id)
      SELECT * FROM done`,
    values: [
      attempt.taskId,
      attempt.attempt,
      attempt.nodeId,
      sources(JOB, "succeed"),
      sources(TASK, "finish"),
      target(TASK, "finish"),
      usage?.wallMs ?? null,
      usage?.cpuMs ?? null,
      usage === null ? null : Math.round(usage.peakMemoryBytes),
      JSON.stringify(result.locations),
      JSON.stringify(result.schema),
      result.rows,
      result.bytes,
      attempt.head,
      JSON.stringify(result.warnings),
      target(JOB, "succeed"),
    ],
  });
  return rows[0];
}
