import { type ErrorInfo, INLINE_PLAN_BYTES_MAX, type JobMode, type Manifest, type TaskKind } from "@frazil/contracts";
import type { Allotment, LeasableJob } from "../domain/assign.ts";
import { sources, TASK, target } from "../domain/lifecycles.ts";
import type { Sql } from "./pool.ts";

export interface LeasedTask {
  readonly id: string;
  readonly job_id: string;
  readonly mode: JobMode;
  readonly kind: TaskKind;
  readonly attempt: number;
  readonly frame: number | null;
  readonly ordinal: number;
  readonly parent_id: string | null;
  readonly key_path: string | null;
  readonly key_token: string | null;
  readonly plan_id: string;
  readonly plan_kind: "dsl" | "sql";
  /** Sealed plan bytes, when small. */
  readonly sealed_plan: Buffer | null;
  readonly split_state: unknown;
  readonly manifest: Manifest | null;
}

/** Jobs of a cluster with queued tasks, highest priority first, at most `perUser` of each user, described by their next task. */
export async function listLeasable(
  sql: Sql,
  clusterId: string,
  perUser: number,
): Promise<Omit<LeasableJob, "taskMs">[]> {
  const rows = await sql.query<Omit<LeasableJob, "taskMs">>({
    name: "list-leasable",
    text: `SELECT ranked.id AS "jobId", ranked.user_name AS "user", ranked.priority, ranked.mode, next.kind, next.parent_id AS "parentId", next.attempt,
        CASE WHEN next.kind = 'query' THEN ranked.tasks_total - ranked.tasks_succeeded - ranked.tasks_failed - ranked.tasks_cancelled
          ELSE (SELECT count(*)::int FROM tasks t WHERE t.job_id = ranked.id AND t.status = 'queued' AND t.kind = next.kind
            AND t.parent_id IS NOT DISTINCT FROM next.parent_id) END AS queued
      FROM (SELECT j.*, row_number() OVER (PARTITION BY user_name ORDER BY priority DESC, id) AS place
        FROM jobs j WHERE cluster_id = $1 AND status IN ('queued', 'running')
          AND splits_open + tasks_total > tasks_succeeded + tasks_failed + tasks_cancelled
          AND EXISTS (SELECT 1 FROM tasks t WHERE t.job_id = j.id AND t.status = 'queued' AND (t.not_before IS NULL OR t.not_before <= now()))) ranked
      CROSS JOIN LATERAL (SELECT kind, parent_id, attempt FROM tasks WHERE job_id = ranked.id AND status = 'queued'
        AND (not_before IS NULL OR not_before <= now()) ORDER BY ordinal LIMIT 1) next
      WHERE place <= $2 ORDER BY ranked.priority DESC, ranked.id`,
    values: [clusterId, perUser],
  });
  return rows;
}

const LEASED_COLUMNS = `t.id, t.job_id, t.kind, t.attempt, t.frame, t.ordinal, t.parent_id, t.key_path, t.key_token, t.plan_id, t.manifest`;
const PLAN_COLUMNS = `p.kind AS plan_kind, (SELECT mode FROM jobs WHERE jobs.id = t.job_id) AS mode, CASE WHEN p.size_bytes <= ${INLINE_PLAN_BYTES_MAX} THEN p.sealed END AS sealed_plan,
  (SELECT s.split_state FROM tasks s WHERE s.id = t.parent_id) AS split_state`;

/** Leases queued tasks to a node: each gets a new attempt, whose number is its fencing token. Time is the database's. */
export async function leaseTasks(
  sql: Sql,
  nodeId: string,
  allotments: readonly Allotment[],
  ttlMs: number,
): Promise<LeasedTask[]> {
  return sql.query<LeasedTask>({
    name: "lease-tasks",
    // Jobs that this starts are locked before their tasks, as everywhere.
    text: `WITH want AS (SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::int[]) AS w(job_id, kind, parent_id, n)),
      starting AS MATERIALIZED (
        SELECT id FROM jobs WHERE id = ANY($2::text[]) AND status = 'queued' ORDER BY id FOR NO KEY UPDATE
      ), picked AS (
        SELECT found.id FROM want w CROSS JOIN LATERAL (
          SELECT id FROM tasks WHERE job_id = w.job_id AND status = 'queued' AND kind = w.kind AND parent_id IS NOT DISTINCT FROM w.parent_id
            AND (not_before IS NULL OR not_before <= now())
          ORDER BY ordinal LIMIT w.n FOR UPDATE SKIP LOCKED) found
        WHERE (SELECT count(*) FROM starting) >= 0
      ), t AS (
        UPDATE tasks SET status = 'leased', attempt = tasks.attempt + 1, node_id = $1, lease_expires_at = now() + make_interval(secs => $6), not_before = NULL
        FROM picked WHERE tasks.id = picked.id RETURNING tasks.*
      ), tried AS (
        INSERT INTO attempts (task_id, number, job_id, workspace_id, node_id, status) SELECT id, attempt, job_id, workspace_id, $1, 'leased' FROM t
      ), event AS (
        INSERT INTO events (workspace_id, job_id, task_id, node_id, event, data)
        SELECT workspace_id, job_id, id, $1, 'lease', jsonb_build_object('attempt', attempt) FROM t
      ), started AS (
        UPDATE jobs SET status = 'running', started_at = coalesce(started_at, now()), phase = NULL, revision = revision + 1
        WHERE id IN (SELECT job_id FROM t) AND status = 'queued'
      )
      SELECT ${LEASED_COLUMNS}, ${PLAN_COLUMNS} FROM t JOIN plans p ON p.id = t.plan_id ORDER BY t.job_id, t.ordinal`,
    values: [
      nodeId,
      allotments.map((given) => given.jobId),
      allotments.map((given) => given.kind),
      allotments.map((given) => given.parentId),
      allotments.map((given) => given.count),
      ttlMs / 1_000,
    ],
  });
}

export interface AttemptKey {
  readonly taskId: string;
  readonly attempt: number;
}

/** The live attempts among these, as they were leased to this node: for a lease whose content is fetched. */
export async function loadLeased(sql: Sql, nodeId: string, attempts: readonly AttemptKey[]): Promise<LeasedTask[]> {
  return sql.query<LeasedTask>({
    text: `SELECT ${LEASED_COLUMNS}, ${PLAN_COLUMNS}
      FROM unnest($2::text[], $3::int[]) AS a(id, attempt) JOIN tasks t ON t.id = a.id AND t.attempt = a.attempt AND t.node_id = $1
      JOIN plans p ON p.id = t.plan_id ORDER BY t.job_id, t.ordinal`,
    values: [nodeId, attempts.map((one) => one.taskId), attempts.map((one) => one.attempt)],
  });
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
    text: `WITH held AS (SELECT * FROM unnest($2::text[], $3::int[]) AS h(id, attempt)),
      live AS MATERIALIZED (
        SELECT tasks.id FROM tasks JOIN held ON tasks.id = held.id AND tasks.attempt = held.attempt
        WHERE tasks.node_id = $1 AND tasks.status = ANY($5) ORDER BY tasks.id FOR NO KEY UPDATE OF tasks
      ), renewed AS (
        UPDATE tasks SET lease_expires_at = now() + make_interval(secs => $4) FROM live WHERE tasks.id = live.id
        RETURNING tasks.id, tasks.attempt
      )
      SELECT id AS "taskId", attempt FROM held WHERE (id, attempt) NOT IN (SELECT id, attempt FROM renewed)`,
    values: [
      nodeId,
      attempts.map((one) => one.taskId),
      attempts.map((one) => one.attempt),
      ttlMs / 1_000,
      sources(TASK, "requeue"),
    ],
  });
}

/** Marks attempts as running, where they are live and the node that says so has them. */
export async function startTasks(sql: Sql, attempts: readonly (AttemptKey & { nodeId: string })[]): Promise<void> {
  await sql.query({
    name: "start-tasks",
    text: `WITH live AS MATERIALIZED (
        SELECT tasks.id FROM tasks JOIN unnest($1::text[], $2::int[], $5::text[]) AS s(id, attempt, node_id)
          ON tasks.id = s.id AND tasks.attempt = s.attempt AND tasks.node_id = s.node_id
        WHERE tasks.status = ANY($4) ORDER BY tasks.id FOR NO KEY UPDATE OF tasks
      ), t AS (UPDATE tasks SET status = $3, started_at = now() FROM live WHERE tasks.id = live.id RETURNING tasks.*)
      INSERT INTO events (workspace_id, job_id, task_id, node_id, event, data)
      SELECT workspace_id, job_id, id, node_id, 'start', jsonb_build_object('attempt', attempt) FROM t`,
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

/** Everything that a node holds, as its dispatcher must count it after a reconnect. */
export async function loadHeld(sql: Sql, nodeId: string): Promise<LeasedTask[]> {
  return sql.query<LeasedTask>({
    text: `SELECT ${LEASED_COLUMNS}, p.kind AS plan_kind, (SELECT mode FROM jobs WHERE jobs.id = t.job_id) AS mode,
        NULL::bytea AS sealed_plan, NULL::jsonb AS split_state
      FROM tasks t JOIN plans p ON p.id = t.plan_id WHERE t.node_id = $1 AND t.status = ANY($2) ORDER BY t.job_id, t.ordinal`,
    values: [nodeId, sources(TASK, "requeue")],
  });
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
export async function lockJobsOf(
  sql: Sql,
  taskIds: readonly string[],
): Promise<{ readonly id: string; readonly tasks_total: number }[]> {
  return sql.query({
    name: "lock-jobs-of",
    text: "SELECT id, tasks_total FROM jobs WHERE id IN (SELECT job_id FROM tasks WHERE id = ANY($1)) ORDER BY id FOR NO KEY UPDATE",
    values: [taskIds],
  });
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
export async function lockExpired(sql: Sql, limit: number): Promise<OpenTask[]> {
  return lockWhere(sql, "lease_expires_at < now()", [], limit);
}

/** Locks what a node holds according to us, but for the attempts that it says it has, after their jobs. */
export async function lockHeldBy(sql: Sql, nodeId: string, has: readonly AttemptKey[]): Promise<OpenTask[]> {
  const condition =
    "node_id = $2 AND (id, attempt) NOT IN (SELECT * FROM unnest($3::text[], $4::int[]) AS h(id, attempt))";
  return lockWhere(sql, condition, [nodeId, has.map((one) => one.taskId), has.map((one) => one.attempt)], null);
}

/** Finds tasks on nodes, locks their jobs, then the tasks themselves, if the condition still holds. `values` are $2 and up. */
async function lockWhere(sql: Sql, condition: string, values: unknown[], limit: number | null): Promise<OpenTask[]> {
  const where = `status = ANY($1) AND ${condition}`;
  const known = [sources(TASK, "requeue"), ...values];
  const next = `$${known.length + 1}`;
  const found = await sql.query<{ id: string }>({
    text: `SELECT id FROM tasks WHERE ${where} ORDER BY id LIMIT ${next}`,
    values: [...known, limit],
  });
  if (found.length === 0) return [];
  const ids = found.map((row) => row.id);
  await lockJobsOf(sql, ids);
  return sql.query<OpenTask>({
    text: `SELECT ${OPEN_COLUMNS} FROM tasks WHERE ${where} AND id = ANY(${next}) ORDER BY id FOR UPDATE`,
    values: [...known, ids],
  });
}

export interface TaskOutcome {
  readonly task: OpenTask;
  readonly event: "finish" | "fail" | "requeue";
  /** Status of the attempt that ends: succeeded, failed, lost or released. */
  readonly attemptStatus: "succeeded" | "failed" | "lost" | "released";
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
          error = o.error, split_state = coalesce(o.split_state, tasks.split_state),
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
