import { JOB, sources, TASK, target } from "../domain/lifecycles.ts";
import { type JobRow, SWEEP_AFTER_SECONDS } from "./jobs.ts";
import type { Sql } from "./pool.ts";
import type { NewResult } from "./results.ts";

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
        UPDATE jobs SET status = $16, phase = NULL, tasks_succeeded = 1, finished_at = now(), revision = revision + 1,
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
