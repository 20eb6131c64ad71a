import { mintId, type TaskStatus } from "@frazil/contracts";
import { TASK, target } from "../domain/lifecycles.ts";
import type { Sql } from "./pool.ts";
import { failureKeyOf, type OpenTask } from "./tasks.ts";

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

/** Which tasks of a job a batch of its stop takes, at most `limit`, the first ones. One status: the index then leads past those that were ended before. */
export interface StopBatch {
  readonly jobId: string;
  readonly status: TaskStatus;
  /** Ordinal to begin at: behind the batch before. */
  readonly from: number;
  readonly limit: number;
}

/** What became of a batch. */
export interface Stopped {
  /** Tasks that were looked at; some may have been leased or ended just then. */
  readonly found: number;
  /** Ordinal of the last of them. */
  readonly last: number | null;
  readonly ended: number;
  /** Of those that were ended. */
  readonly splits: number;
  readonly onNodes: number;
}

/** Not those of which an attempt was fenced for publishing, whoever goes on with it. */
const CANCELLABLE = "manifest IS NULL";
/** Nor those that a node is publishing right now; but no node will take up one that waits. */
const FAILABLE = "(manifest IS NULL OR status = 'queued')";
const JOB_ERROR = "(SELECT error FROM jobs WHERE id = $1)";

const pick = (condition: string) => `picked AS MATERIALIZED (
    SELECT id, ordinal FROM tasks WHERE job_id = $1 AND status = $2 AND ordinal >= $5 AND ${condition} ORDER BY ordinal LIMIT $3)`;
const STILL_OPEN = "status = $2 AND id = ANY(ARRAY(SELECT id FROM picked))";
const SUM_UP = `SELECT (SELECT count(*)::int FROM picked) AS found, (SELECT max(ordinal) FROM picked) AS last, count(*)::int AS ended,
    count(*) FILTER (WHERE kind = 'split')::int AS splits, count(node_id)::int AS "onNodes" FROM t`;

interface Stop {
  readonly name: string;
  readonly condition: string;
  readonly set: string;
  readonly attempts: string;
  readonly event: string;
}
const CANCEL: Stop = {
  name: "cancel",
  condition: CANCELLABLE,
  set: "status = $4, finished_at = now(), phase = NULL",
  attempts: "status = 'released', finished_at = now()",
  event: `INSERT INTO events (workspace_id, job_id, event, data) SELECT workspace_id, job_id, 'cancel', jsonb_build_object('tasks', count(*)) FROM t GROUP BY 1, 2`,
};
const FAIL: Stop = {
  name: "fail",
  condition: FAILABLE,
  set: `status = $4, finished_at = now(), phase = NULL, error = ${JOB_ERROR}, failure_key = ${failureKeyOf(JOB_ERROR)}`,
  attempts: `status = 'failed', finished_at = now(), error = ${JOB_ERROR}`,
  event: "INSERT INTO events (workspace_id, job_id, task_id, event) SELECT workspace_id, job_id, id, 'fail' FROM t",
};

/** Those that wait are nobody else's but a lease's that is being written, which waits for nothing: no need to lock them first. */
const stopWaiting = ({ condition, set, event }: Stop) => `WITH ${pick(condition)},
  t AS (
    UPDATE tasks SET ${set} WHERE ${STILL_OPEN} AND ${condition} RETURNING id, job_id, workspace_id, kind, NULL::text AS node_id
  ), event AS (${event})
  ${SUM_UP}`;
/** Locked in id order, as by everyone. */
const stopOnNodes = ({ condition, set, attempts, event }: Stop) => `WITH ${pick(condition)},
  open AS (SELECT id, node_id FROM tasks WHERE ${STILL_OPEN} AND ${condition} ORDER BY id FOR UPDATE),
  t AS (
    UPDATE tasks SET ${set}, node_id = NULL, lease_expires_at = NULL FROM open
    WHERE tasks.id = open.id RETURNING tasks.id, tasks.job_id, tasks.workspace_id, tasks.attempt, tasks.kind, open.node_id
  ), tried AS (
    UPDATE attempts SET ${attempts} FROM t WHERE attempts.task_id = t.id AND attempts.number = t.attempt AND t.node_id IS NOT NULL
  ), event AS (${event})
  ${SUM_UP}`;

async function stopTasks(sql: Sql, batch: StopBatch, stop: Stop, to: TaskStatus): Promise<Stopped> {
  const isWaiting = batch.status === "queued";
  const rows = await sql.query<Stopped>({
    name: `${stop.name}-${isWaiting ? "waiting" : "on-nodes"}`,
    text: isWaiting ? stopWaiting(stop) : stopOnNodes(stop),
    values: [batch.jobId, batch.status, batch.limit, to, batch.from],
  });
  return rows[0] as Stopped;
}

/** Cancels tasks of a job, which the caller has locked. */
export function cancelTasks(sql: Sql, batch: StopBatch): Promise<Stopped> {
  return stopTasks(sql, batch, CANCEL, target(TASK, "cancel"));
}

/** Fails tasks of a job, which the caller has locked, with the job's own error: no node will ever take them, or theirs is being ended. */
export function failTasks(sql: Sql, batch: StopBatch): Promise<Stopped> {
  return stopTasks(sql, batch, FAIL, target(TASK, "fail"));
}

/** Tasks that one statement copies: for each it walks through the list of new ids. */
const COPIED_PER_STATEMENT = 1_000;

/** Copies the failed and cancelled tasks of a job into its retry, where each has its place in the order. Keys that were found stay found. */
export async function copyUnfinished(sql: Sql, fromJobId: string, toJobId: string): Promise<void> {
  for (const status of ["failed", "cancelled"] satisfies TaskStatus[]) {
    let from: number | null = 0;
    while (from !== null) from = await copySome(sql, fromJobId, toJobId, status, from);
  }
}

/** Copies the first tasks of one status from this ordinal on. Returns where to go on, or null when there may be no more. */
async function copySome(
  sql: Sql,
  fromJobId: string,
  toJobId: string,
  status: TaskStatus,
  from: number,
): Promise<number | null> {
  const rows = await sql.query<{ copied: number; last: number | null }>({
    name: "copy-unfinished",
    text: `WITH old AS MATERIALIZED (
        SELECT *, row_number() OVER (ORDER BY ordinal) AS place FROM tasks
        WHERE job_id = $1 AND status = $3 AND ordinal >= $4 ORDER BY ordinal LIMIT cardinality($5::text[])
      ), copied AS (
        INSERT INTO tasks (id, job_id, workspace_id, kind, status, ordinal, frame, parent_id, key, key_path, key_token, plan_id, attempts_max)
        SELECT ($5::text[])[place], $2, workspace_id, kind, 'queued', ordinal, frame, parent_id, key, key_path, key_token, plan_id,
          (SELECT attempts_max FROM jobs WHERE id = $2)
        FROM old
      )
      SELECT count(*)::int AS copied, max(ordinal) AS last FROM old`,
    values: [fromJobId, toJobId, status, from, Array.from({ length: COPIED_PER_STATEMENT }, () => mintId("task"))],
  });
  const { copied, last } = rows[0] as { copied: number; last: number | null };
  return last === null || copied < COPIED_PER_STATEMENT ? null : last + 1;
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
