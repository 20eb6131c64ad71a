import type { TaskKind, TaskStatus } from "@frazil/contracts";
import { TASK, target } from "../domain/lifecycles.ts";
import type { Sql } from "./pool.ts";
import type { OpenTask } from "./tasks.ts";

export interface NewKeyTask {
  readonly id: string;
  readonly parent: OpenTask;
  readonly values: Record<string, string | null>;
  readonly path: string;
  readonly token: string;
}

/** Keys of one task have this much room in the order of the job: more than KEYS_MAX. */
const KEYS_STRIDE = 2 ** 20;

/** Adds the tasks of found keys, in the order of the tasks that found them. */
export async function insertKeyTasks(sql: Sql, jobId: string, keys: readonly NewKeyTask[]): Promise<void> {
  await sql.query({
    text: `INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, parent_id, key, key_path, key_token, plan_id, attempts_max)
      SELECT k.id, $1, p.workspace_id, 'key', 'queued', (p.ordinal + 1) * ${KEYS_STRIDE} + k.place, p.frame, p.id,
        k.key, k.path, k.token, p.plan_id, p.attempts_max
      FROM unnest($2::text[], $3::text[], $4::jsonb[], $5::text[], $6::text[]) WITH ORDINALITY AS k(id, parent_id, key, path, token, place)
      JOIN tasks p ON p.id = k.parent_id`,
    values: [
      jobId,
      keys.map((key) => key.id),
      keys.map((key) => key.parent.id),
      keys.map((key) => JSON.stringify(key.values)),
      keys.map((key) => key.path),
      keys.map((key) => key.token),
    ],
  });
}

export interface StoppedTask {
  readonly id: string;
  readonly kind: TaskKind;
  readonly ordinal: number;
  readonly node_id: string | null;
}

/** Which tasks of a job a batch of its stop takes, at most `limit`, the first ones. One status: the index then leads past those that were ended before. */
export interface StopBatch {
  readonly jobId: string;
  readonly status: TaskStatus;
  /** Ordinal to begin at: behind the batch before. */
  readonly from: number;
  readonly limit: number;
}

/** Locks them in id order, as everyone does. */
const lockBatch = (
  condition: string,
) => `SELECT id, node_id FROM tasks WHERE status = $2 AND ${condition} AND id = ANY(ARRAY(
    SELECT id FROM tasks WHERE job_id = $1 AND status = $2 AND ordinal >= $5 AND ${condition} ORDER BY ordinal LIMIT $3)) ORDER BY id FOR UPDATE`;
/** Not those of which an attempt was fenced for publishing, whoever goes on with it. */
const CANCELLABLE = lockBatch("manifest IS NULL");
/** Nor those that a node is publishing right now; but no node will take up one that waits. */
const FAILABLE = lockBatch("(manifest IS NULL OR status = 'queued')");

/** Cancels tasks of a job, which the caller has locked. */
export async function cancelTasks(sql: Sql, batch: StopBatch): Promise<StoppedTask[]> {
  return sql.query<StoppedTask>({
    name: "cancel-tasks",
    text: `WITH open AS (${CANCELLABLE}),
      t AS (
        UPDATE tasks SET status = $4, node_id = NULL, lease_expires_at = NULL, finished_at = now(), phase = NULL FROM open
        WHERE tasks.id = open.id RETURNING tasks.id, tasks.job_id, tasks.workspace_id, tasks.attempt, tasks.kind, tasks.ordinal, open.node_id
      ), tried AS (
        UPDATE attempts SET status = 'released', finished_at = now() FROM t
        WHERE attempts.task_id = t.id AND attempts.number = t.attempt AND t.node_id IS NOT NULL
      ), event AS (
        INSERT INTO events (workspace_id, job_id, event, data) SELECT workspace_id, job_id, 'cancel', jsonb_build_object('tasks', count(*)) FROM t GROUP BY 1, 2
      )
      SELECT id, kind, ordinal, node_id FROM t`,
    values: [batch.jobId, batch.status, batch.limit, target(TASK, "cancel"), batch.from],
  });
}

/** Fails tasks of a job, which the caller has locked, with the job's own error: no node will ever take them, or theirs is being ended. */
export async function failTasks(sql: Sql, batch: StopBatch): Promise<StoppedTask[]> {
  return sql.query<StoppedTask>({
    name: "fail-tasks",
    text: `WITH open AS (${FAILABLE}),
      t AS (
        UPDATE tasks SET status = $4, node_id = NULL, lease_expires_at = NULL, error = (SELECT error FROM jobs WHERE id = $1), finished_at = now(),
          phase = NULL FROM open
        WHERE tasks.id = open.id RETURNING tasks.id, tasks.job_id, tasks.workspace_id, tasks.attempt, tasks.kind, tasks.ordinal, tasks.error, open.node_id
      ), tried AS (
        UPDATE attempts SET status = 'failed', finished_at = now(), error = t.error FROM t
        WHERE attempts.task_id = t.id AND attempts.number = t.attempt AND t.node_id IS NOT NULL
      ), event AS (INSERT INTO events (workspace_id, job_id, task_id, event) SELECT workspace_id, job_id, id, 'fail' FROM t)
      SELECT id, kind, ordinal, node_id FROM t`,
    values: [batch.jobId, batch.status, batch.limit, target(TASK, "fail"), batch.from],
  });
}

/** Copies the failed and cancelled tasks of a job into its retry, in order. Keys that were found stay found. */
export async function copyUnfinished(
  sql: Sql,
  fromJobId: string,
  toJobId: string,
  ids: readonly string[],
): Promise<void> {
  await sql.query({
    text: `INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, parent_id, key, key_path, key_token, plan_id, attempts_max)
      SELECT ($3::text[])[place], $2, workspace_id, kind, 'queued', ordinal, frame, parent_id, key, key_path, key_token, plan_id,
        (SELECT attempts_max FROM jobs WHERE id = $2)
      FROM (SELECT *, row_number() OVER (ORDER BY ordinal) AS place FROM tasks WHERE job_id = $1 AND status IN ('failed', 'cancelled')) old`,
    values: [fromJobId, toJobId, ids],
  });
}

export async function countUnfinished(sql: Sql, jobId: string): Promise<{ splits: number; tasks: number }> {
  const rows = await sql.query<{ splits: number; tasks: number }>({
    text: `SELECT count(*) FILTER (WHERE kind = 'split')::int AS splits, count(*) FILTER (WHERE kind <> 'split')::int AS tasks
      FROM tasks WHERE job_id = $1 AND status IN ('failed', 'cancelled')`,
    values: [jobId],
  });
  return rows[0] as { splits: number; tasks: number };
}

/** Clusters in which tasks are open: their dispatcher looks whether one waits, or one that was delayed has become due. */
export async function findClustersWithOpenTasks(sql: Sql): Promise<string[]> {
  const rows = await sql.query<{ cluster_id: string }>({
    text: `SELECT DISTINCT cluster_id FROM jobs WHERE status IN ('queued', 'running') AND cluster_id IS NOT NULL
      AND splits_open + tasks_total > tasks_succeeded + tasks_failed + tasks_cancelled`,
  });
  return rows.map((row) => row.cluster_id);
}
