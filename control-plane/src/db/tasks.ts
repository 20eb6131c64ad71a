import type { ErrorInfo, Manifest, TaskKind } from "@frazil/contracts";
import { sources, TASK, target } from "../domain/lifecycles.ts";
import type { LockedJob } from "./job-ends.ts";
import type { Sql } from "./pool.ts";

export interface AttemptKey {
  readonly taskId: string;
  readonly attempt: number;
}

/** Renews the leases that this node still has, and returns those among `attempts` that it has not. */
export async function renewLeases(
  sql: Sql,
  nodeId: string,
  attempts: readonly AttemptKey[],
  ttlMs: number,
): Promise<AttemptKey[]> {
  if (attempts.length === 0) return [];
  return sql.query<{ taskId: string; attempt: number }>({
    name: "renew-leases",
    // Locked rows are left alone: who has them ends or fences them just now. Waiting here while holding others could deadlock with one who has locked
    // the job, and goes on to its other tasks.
    text: `WITH held AS (SELECT * FROM unnest($2::text[], $3::int[]) AS h(id, attempt)),
      live AS MATERIALIZED (
        SELECT tasks.id, tasks.attempt FROM tasks JOIN held ON tasks.id = held.id AND tasks.attempt = held.attempt
        WHERE tasks.node_id = $1 AND tasks.status = ANY($5)
      ), free AS MATERIALIZED (
        SELECT tasks.id FROM tasks JOIN live ON tasks.id = live.id AND tasks.attempt = live.attempt
        WHERE tasks.node_id = $1 AND tasks.status = ANY($5) FOR NO KEY UPDATE OF tasks SKIP LOCKED
      ), renewed AS (
        UPDATE tasks SET lease_expires_at = now() + make_interval(secs => $4) FROM free WHERE tasks.id = free.id
      )
      SELECT id AS "taskId", attempt FROM held WHERE (id, attempt) NOT IN (SELECT id, attempt FROM live)`,
    values: [
      nodeId,
      attempts.map((one) => one.taskId),
      attempts.map((one) => one.attempt),
      ttlMs / 1_000,
      sources(TASK, "requeue"),
    ],
  });
}

export interface StartedAttempt extends AttemptKey {
  readonly nodeId: string;
}

/**
 * Marks attempts as running, where they are live and the node that says so has them. Never waits for a lock, as for renewing: returns those that somebody
 * else had locked.
 */
export async function startTasks(sql: Sql, attempts: readonly StartedAttempt[]): Promise<StartedAttempt[]> {
  return sql.query<StartedAttempt>({
    name: "start-tasks",
    text: `WITH wanted AS MATERIALIZED (
        SELECT tasks.id, tasks.attempt, tasks.node_id FROM tasks JOIN unnest($1::text[], $2::int[], $5::text[]) AS s(id, attempt, node_id)
          ON tasks.id = s.id AND tasks.attempt = s.attempt AND tasks.node_id = s.node_id
        WHERE tasks.status = ANY($4)
      ), live AS MATERIALIZED (
        SELECT tasks.id FROM tasks JOIN wanted ON tasks.id = wanted.id AND tasks.attempt = wanted.attempt AND tasks.node_id = wanted.node_id
        WHERE tasks.status = ANY($4) FOR NO KEY UPDATE OF tasks SKIP LOCKED
      ), t AS (
        UPDATE tasks SET status = $3, started_at = now() FROM live WHERE tasks.id = live.id RETURNING tasks.*
      ), event AS (
        INSERT INTO events (workspace_id, job_id, task_id, node_id, event, data)
        SELECT workspace_id, job_id, id, node_id, 'start', jsonb_build_object('attempt', attempt) FROM t
      )
      SELECT id AS "taskId", attempt, node_id AS "nodeId" FROM wanted WHERE id NOT IN (SELECT id FROM live)`,
    values: [
      attempts.map((one) => one.taskId),
      attempts.map((one) => one.attempt),
      target(TASK, "start"),
      sources(TASK, "start"),
      attempts.map((one) => one.nodeId),
    ],
  });
}

/** What a live attempt is doing, in words. Returns its job. */
export async function setTaskPhase(
  sql: Sql,
  attempt: AttemptKey,
  nodeId: string,
  phase: string,
): Promise<string | undefined> {
  const rows = await sql.query<{ job_id: string }>({
    text: "UPDATE tasks SET phase = $4 WHERE id = $1 AND attempt = $2 AND node_id = $3 RETURNING job_id",
    values: [attempt.taskId, attempt.attempt, nodeId, phase],
  });
  return rows[0]?.job_id;
}

/** The fence before publishing: true when the attempt is live, or was fenced before (its `publish` answer got lost). */
export async function fenceForPublish(
  sql: Sql,
  attempt: AttemptKey,
  nodeId: string,
  manifest: Manifest,
): Promise<boolean> {
  const rows = await sql.query({
    name: "fence-for-publish",
    text: `WITH t AS (UPDATE tasks SET status = $4, manifest = $5 WHERE id = $1 AND attempt = $2 AND node_id = $3 AND status = ANY($6) RETURNING *),
      event AS (INSERT INTO events (workspace_id, job_id, task_id, node_id, event, data)
        SELECT workspace_id, job_id, id, node_id, 'publish', jsonb_build_object('attempt', attempt) FROM t WHERE status = $4)
      SELECT 1 FROM t`,
    values: [
      attempt.taskId,
      attempt.attempt,
      nodeId,
      target(TASK, "publish"),
      manifest,
      [...sources(TASK, "publish"), "publishing"],
    ],
  });
  return rows.length > 0;
}

/** Whether this very output was fenced, and its publishing is not over. */
export async function wasFenced(sql: Sql, taskId: string, manifest: Manifest): Promise<boolean> {
  const rows = await sql.query({
    text: "SELECT 1 FROM tasks WHERE id = $1 AND manifest = $2 AND status = ANY($3)",
    values: [taskId, manifest, [...sources(TASK, "lease"), ...sources(TASK, "requeue")]],
  });
  return rows.length > 0;
}

export interface OpenTask {
  readonly id: string;
  readonly job_id: string;
  readonly workspace_id: string;
  readonly kind: TaskKind;
  /** An attempt of it was fenced for publishing: this one or one before. */
  readonly publishing: boolean;
  readonly ordinal: number;
  readonly frame: number | null;
  readonly plan_id: string;
  readonly attempt: number;
  readonly attempts_max: number;
  /** Attempts that were given back without being run: they are no tries. */
  readonly releases: number;
  readonly node_id: string | null;
}

/**
 * Locks the jobs of tasks. Whoever ends tasks does it first: jobs are locked before tasks, and both in the order of their ids, by everyone, so that
 * recording, cancelling and expiring can't deadlock.
 */
export async function lockJobsOf(sql: Sql, taskIds: readonly string[]): Promise<LockedJob[]> {
  return sql.query<LockedJob>({
    name: "lock-jobs-of",
    text: `SELECT id, status, cluster_id, splits_open, tasks_total, tasks_succeeded, tasks_failed, tasks_cancelled FROM jobs
      WHERE id IN (SELECT job_id FROM tasks WHERE id = ANY($1)) ORDER BY id FOR NO KEY UPDATE`,
    values: [taskIds],
  });
}

/** Tasks that are locked, after their jobs. */
export interface Locked {
  readonly jobs: readonly LockedJob[];
  readonly tasks: readonly OpenTask[];
}

const OPEN_COLUMNS = `id, job_id, workspace_id, kind, ordinal, frame, plan_id, attempt, attempts_max, releases, node_id, manifest IS NOT NULL AS publishing`;

/** Locks tasks that are on a node (in id order, so that two batches can't deadlock). */
export async function lockActive(sql: Sql, taskIds: readonly string[]): Promise<OpenTask[]> {
  return sql.query<OpenTask>({
    name: "lock-active",
    text: `SELECT ${OPEN_COLUMNS} FROM tasks
      WHERE id = ANY($1) AND status = ANY($2) ORDER BY id FOR UPDATE`,
    values: [taskIds, sources(TASK, "finish")],
  });
}

/** Locks tasks whose lease ran out, after their jobs. */
export async function lockExpired(sql: Sql, limit: number): Promise<Locked> {
  return lockWhere(sql, "lease_expires_at < now()", [], limit);
}

/** Locks what a node holds according to us, but for the attempts that it says it has, after their jobs. */
export async function lockHeldBy(sql: Sql, nodeId: string, has: readonly AttemptKey[], limit: number): Promise<Locked> {
  const condition =
    "node_id = $2 AND (id, attempt) NOT IN (SELECT * FROM unnest($3::text[], $4::int[]) AS h(id, attempt))";
  return lockWhere(sql, condition, [nodeId, has.map((one) => one.taskId), has.map((one) => one.attempt)], limit);
}

/** Finds tasks on nodes, locks their jobs, then the tasks themselves, if the condition still holds. `values` are $2 and up. */
async function lockWhere(sql: Sql, condition: string, values: unknown[], limit: number): Promise<Locked> {
  const where = `status = ANY($1) AND ${condition}`;
  const known = [sources(TASK, "requeue"), ...values];
  const next = `$${known.length + 1}`;
  const found = await sql.query<{ id: string }>({
    text: `SELECT id FROM tasks WHERE ${where} ORDER BY id LIMIT ${next}`,
    values: [...known, limit],
  });
  if (found.length === 0) return { jobs: [], tasks: [] };
  const ids = found.map((row) => row.id);
  const jobs = await lockJobsOf(sql, ids);
  const tasks = await sql.query<OpenTask>({
    text: `SELECT ${OPEN_COLUMNS} FROM tasks WHERE ${where} AND id = ANY(${next}) ORDER BY id FOR UPDATE`,
    values: [...known, ids],
  });
  return { jobs, tasks };
}

/** What failures are grouped by, of an error in SQL: short, while an error may hold a long traceback. Written with each task that fails. */
export function failureKeyOf(error: string): string {
  const part = (name: string) => `coalesce(${error} ->> '${name}', '')`;
  return `md5(${part("code")} || ' ' || ${part("type")} || ' ' || ${part("message")})`;
}

export interface TaskOutcome {
  readonly task: OpenTask;
  readonly event: "finish" | "fail" | "requeue";
  /** Status of the attempt that ends. One that was `returned` had not begun, and does not count against the attempts that the task may have. */
  readonly attemptStatus: "succeeded" | "failed" | "lost" | "released" | "returned";
  readonly error: ErrorInfo | null;
  readonly delayMs: number;
  readonly usage: { wallMs: number; cpuMs: number; peakMemoryBytes: number } | null;
  readonly splitState: unknown;
}

/** Ends attempts: writes the tasks (locked before by the caller), the attempts and the events of one batch in one statement. */
export async function applyOutcomes(sql: Sql, outcomes: readonly TaskOutcome[]): Promise<void> {
  await sql.query({
    name: "apply-outcomes",
    text: `WITH o AS (
        SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::float8[], $8::float8[], $9::float8[], $10::bigint[],
          $11::jsonb[]) AS o(id, attempt, status, event, attempt_status, error, delay_ms, wall_ms, cpu_ms, peak, split_state)
      ), t AS (
        UPDATE tasks SET status = o.status, node_id = NULL, lease_expires_at = NULL, phase = NULL,
          releases = tasks.releases + CASE WHEN o.attempt_status = 'released' THEN 1 ELSE 0 END,
          attempts_max = tasks.attempts_max + (o.attempt_status = 'returned')::int,
          error = o.error, failure_key = CASE WHEN o.event = 'fail' THEN ${failureKeyOf("o.error")} END, split_state = coalesce(o.split_state, tasks.split_state),
          started_at = coalesce(tasks.started_at, now() - make_interval(secs => o.wall_ms / 1000)),
          not_before = CASE WHEN o.event = 'requeue' THEN now() + make_interval(secs => o.delay_ms / 1000) END,
          finished_at = CASE WHEN o.event <> 'requeue' THEN now() END
        FROM o WHERE tasks.id = o.id AND tasks.attempt = o.attempt RETURNING tasks.*
      ), tried AS (
        UPDATE attempts SET status = o.attempt_status, finished_at = now(), error = o.error, wall_ms = o.wall_ms, cpu_ms = o.cpu_ms, peak_memory_bytes = o.peak
        FROM o WHERE attempts.task_id = o.id AND attempts.number = o.attempt
      )
      INSERT INTO events (workspace_id, job_id, task_id, event, data)
      SELECT t.workspace_id, t.job_id, t.id, o.event, jsonb_build_object('attempt', o.attempt, 'code', o.error -> 'code') FROM t JOIN o ON o.id = t.id`,
    values: [
      outcomes.map((one) => one.task.id),
      outcomes.map((one) => one.task.attempt),
      outcomes.map((one) => target(TASK, one.event)),
      outcomes.map((one) => one.event),
      outcomes.map((one) => one.attemptStatus),
      outcomes.map((one) => (one.error === null ? null : JSON.stringify(one.error))),
      outcomes.map((one) => one.delayMs),
      outcomes.map((one) => one.usage?.wallMs ?? null),
      outcomes.map((one) => one.usage?.cpuMs ?? null),
      outcomes.map((one) => (one.usage === null ? null : Math.round(one.usage.peakMemoryBytes))),
      outcomes.map((one) => (one.splitState === undefined ? null : JSON.stringify(one.splitState))),
    ],
  });
}
