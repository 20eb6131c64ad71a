import { INLINE_PLAN_BYTES_MAX, type JobMode, type Manifest, type TaskKind } from "@frazil/contracts";
import { type Allotment, cutTo, type LeasableJob } from "../domain/assign.ts";
import { sources, TASK } from "../domain/lifecycles.ts";
import type { Pool, Sql } from "./pool.ts";
import type { AttemptKey } from "./tasks.ts";

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

export interface Leasable extends Omit<LeasableJob, "taskMs" | "elsewhere"> {
  /** Of the cluster's workspace: most tasks on nodes at once. */
  readonly tasksRunningMax: number | null;
  readonly progress: Progress;
}

/**
 * How far a job's tasks were leased: below this ordinal no task waits for its first attempt, as long as the job gets no further tasks. A hint that saves
 * walking past all that was leased before; without one, the walk begins at the job's first task.
 */
export interface Progress {
  readonly ordinal: number;
  readonly tasksTotal: number;
}

const WAITED_MS = `(extract(epoch FROM now() - coalesce(j.leased_at, j.created_at)) * 1000)::float8`;
/** No retry waits for a minute. A time that lies further ahead was written before the database's clock was set back: waiting for it could take hours. */
const IS_DUE = "(not_before IS NULL OR not_before NOT BETWEEN now() AND now() + interval '1 minute')";

/**
 * Jobs of a cluster with queued tasks, described by their next one: of each user and priority the `places` that have waited longest for a slot. Tasks
 * that were tried before come first. A job that stops has none but publishings that were begun.
 */
export async function listLeasable(
  sql: Sql,
  clusterId: string,
  places: number,
  progress: ReadonlyMap<string, Progress>,
): Promise<Leasable[]> {
  const hints = [...progress];
  return sql.query<Leasable>({
    name: "list-leasable",
    text: `SELECT job.id AS "jobId", job.user_name AS "user", job.priority, job.mode, job.waited_ms AS "waitedMs", w.tasks_running_max AS "tasksRunningMax",
        job.kind, job.parent_id AS "parentId", job.attempt, jsonb_build_object('ordinal', job.reached, 'tasksTotal', job.tasks_total) AS progress,
        CASE WHEN job.kind = 'query' THEN job.left_open
          ELSE (SELECT count(*)::int FROM tasks t WHERE t.job_id = job.id AND t.status = 'queued' AND t.kind = job.kind AND t.parent_id IS NOT DISTINCT FROM job.parent_id
              AND t.attempt = 0 AND t.ordinal >= job.reached)
            + (SELECT count(*)::int FROM tasks t WHERE t.job_id = job.id AND t.status = 'queued' AND t.kind = job.kind
              AND t.parent_id IS NOT DISTINCT FROM job.parent_id AND t.attempt > 0) END AS queued
      FROM (SELECT j.id, j.workspace_id, j.user_name, j.priority, j.mode, j.tasks_total, ${WAITED_MS} AS waited_ms,
          j.tasks_total - j.tasks_succeeded - j.tasks_failed - j.tasks_cancelled AS left_open,
          coalesce(retried.kind, fresh.kind) AS kind, CASE WHEN retried.kind IS NULL THEN fresh.parent_id ELSE retried.parent_id END AS parent_id,
          coalesce(retried.attempt, fresh.attempt) AS attempt, coalesce(fresh.ordinal, hint.ordinal, 0) AS reached,
          row_number() OVER (PARTITION BY j.user_name, j.priority ORDER BY coalesce(j.leased_at, j.created_at), j.id) AS place
        FROM jobs j
        LEFT JOIN unnest($3::text[], $4::bigint[], $5::int[]) AS hint(job_id, ordinal, tasks_total) ON hint.job_id = j.id AND hint.tasks_total = j.tasks_total
        LEFT JOIN LATERAL (SELECT kind, parent_id, attempt FROM tasks WHERE job_id = j.id AND status = 'queued' AND attempt > 0 AND ${IS_DUE}
          AND (j.cancel_requested_at IS NULL OR manifest IS NOT NULL) ORDER BY ordinal LIMIT 1) retried ON true
        LEFT JOIN LATERAL (SELECT kind, parent_id, attempt, ordinal FROM tasks WHERE job_id = j.id AND status = 'queued' AND ${IS_DUE}
          AND ordinal >= coalesce(hint.ordinal, 0) AND j.cancel_requested_at IS NULL ORDER BY ordinal LIMIT 1) fresh ON true
        WHERE j.cluster_id = $1 AND j.status IN ('queued', 'running')
          AND j.splits_open + j.tasks_total > j.tasks_succeeded + j.tasks_failed + j.tasks_cancelled
          AND (retried.kind IS NOT NULL OR fresh.kind IS NOT NULL)) job
      JOIN workspaces w ON w.id = job.workspace_id
      WHERE job.place <= $2`,
    values: [
      clusterId,
      places,
      hints.map(([jobId]) => jobId),
      hints.map(([, { ordinal }]) => ordinal),
      hints.map(([, { tasksTotal }]) => tasksTotal),
    ],
  });
}

export interface Allowance {
  /** Tasks of the workspace on nodes. */
  readonly running: number;
  /** Users with tasks on nodes of other clusters. */
  readonly elsewhere: readonly { readonly user: string; readonly tasks: number }[];
  /** What waits in the workspace's other clusters that have room, by user and priority. */
  readonly rivals: readonly {
    readonly clusterId: string;
    readonly user: string;
    readonly priority: number;
    readonly waitedMs: number;
    /** Its tasks that are on nodes, and all that ever were. */
    readonly running: number;
    readonly taken: number;
  }[];
}

/** How much of a workspace's limit is taken, and who waits for it beside one cluster. */
export async function loadAllowance(sql: Sql, workspaceId: string, clusterId: string): Promise<Allowance> {
  const [running, rivals] = await Promise.all([
    sql.query<{ user: string; tasks: number; elsewhere: number }>({
      name: "count-running",
      text: `SELECT j.user_name AS "user", count(*)::int AS tasks, count(*) FILTER (WHERE j.cluster_id IS DISTINCT FROM $2)::int AS elsewhere
        FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE t.workspace_id = $1 AND t.node_id IS NOT NULL GROUP BY 1`,
      values: [workspaceId, clusterId],
    }),
    sql.query<Allowance["rivals"][number]>({
      name: "find-rivals",
      // A task that takes a whole node has room on an empty one alone; one that has such a node leaves no room there.
      text: `WITH held AS MATERIALIZED (
          SELECT t.node_id, t.job_id, t.kind <> 'query' OR j.mode = 'single' AS whole FROM tasks t JOIN jobs j ON j.id = t.job_id
          WHERE t.workspace_id = $1 AND t.node_id IS NOT NULL
        ), room AS (
          SELECT n.cluster_id, bool_or(used.tasks IS NULL) AS has_node, bool_or(used.tasks IS NULL OR NOT used.whole AND used.tasks < (c.shape ->> 'cpus')::int) AS has_slot
          FROM clusters c JOIN nodes n ON n.cluster_id = c.id
          LEFT JOIN (SELECT node_id, count(*) AS tasks, bool_or(whole) AS whole FROM held GROUP BY 1) used ON used.node_id = n.id
          WHERE c.workspace_id = $1 AND c.status = 'ready' AND c.id <> $2 AND n.status = 'ready' GROUP BY 1
        )
        SELECT j.cluster_id AS "clusterId", j.user_name AS "user", j.priority, max(${WAITED_MS}) AS "waitedMs",
          coalesce(sum(active.tasks), 0)::int AS running,
          sum(coalesce(active.tasks, 0) + j.tasks_succeeded + j.tasks_failed + j.tasks_cancelled)::float8 AS taken
        FROM room JOIN jobs j ON j.cluster_id = room.cluster_id
        LEFT JOIN (SELECT job_id, count(*) AS tasks FROM held GROUP BY 1) active ON active.job_id = j.id
        WHERE j.status IN ('queued', 'running') AND j.cancel_requested_at IS NULL
          AND j.splits_open + j.tasks_total - j.tasks_succeeded - j.tasks_failed - j.tasks_cancelled > coalesce(active.tasks, 0)
          AND CASE WHEN j.mode = 'many' AND coalesce(j.spec -> 'partitionBy', 'null') = 'null' THEN room.has_slot ELSE room.has_node END
        GROUP BY 1, 2, 3`,
      values: [workspaceId, clusterId],
    }),
  ]);
  return {
    running: running.reduce((sum, one) => sum + one.tasks, 0),
    elsewhere: running.map(({ user, elsewhere }) => ({ user, tasks: elsewhere })),
    rivals,
  };
}

const LEASED_COLUMNS = `t.id, t.job_id, t.kind, t.attempt, t.frame, t.ordinal, t.parent_id, t.key_path, t.key_token, t.plan_id, t.manifest`;
const PLAN_COLUMNS = `p.kind AS plan_kind, (SELECT mode FROM jobs WHERE jobs.id = t.job_id) AS mode, CASE WHEN p.size_bytes <= ${INLINE_PLAN_BYTES_MAX} THEN p.sealed END AS sealed_plan,
  (SELECT s.split_state FROM tasks s WHERE s.id = t.parent_id) AS split_state`;

/** A job's own clock of its last lease is written at most this often: writing it locks the job's row. */
const LEASED_AT_EVERY_SECONDS = 1;

export interface LeaseOrder {
  readonly nodeId: string;
  readonly allotments: readonly Allotment[];
  readonly ttlMs: number;
  readonly progress: ReadonlyMap<string, Progress>;
}

/** Leases queued tasks to a node: each gets a new attempt, whose number is its fencing token. Time is the database's. */
export async function leaseTasks(sql: Sql, { nodeId, allotments, ttlMs, progress }: LeaseOrder): Promise<LeasedTask[]> {
  return sql.query<LeasedTask>({
    name: "lease-tasks",
    // Jobs that this starts are locked before their tasks, as everywhere. For their clock alone nobody waits.
    text: `WITH want AS (
        SELECT w.*, coalesce(CASE WHEN w.tasks_total = j.tasks_total THEN w.reached END, 0) AS fresh_from, j.cancel_requested_at IS NOT NULL AS stopping
        FROM unnest($2::text[], $3::text[], $4::text[], $5::int[], $7::bigint[], $8::int[]) WITH ORDINALITY
          AS w(job_id, kind, parent_id, n, reached, tasks_total, place)
        JOIN jobs j ON j.id = w.job_id
      ), starting AS MATERIALIZED (
        SELECT id FROM jobs WHERE id = ANY($2::text[]) AND status = 'queued' ORDER BY id FOR NO KEY UPDATE
      ), retried AS MATERIALIZED (
        SELECT w.place, found.id FROM want w CROSS JOIN LATERAL (
          SELECT id FROM tasks WHERE job_id = w.job_id AND status = 'queued' AND attempt > 0 AND kind = w.kind AND parent_id IS NOT DISTINCT FROM w.parent_id
            AND ${IS_DUE} AND (manifest IS NOT NULL OR NOT w.stopping)
          ORDER BY ordinal LIMIT w.n FOR UPDATE SKIP LOCKED) found
        WHERE (SELECT count(*) FROM starting) >= 0
      ), fresh AS MATERIALIZED (
        SELECT found.id FROM want w CROSS JOIN LATERAL (
          SELECT id FROM tasks WHERE job_id = w.job_id AND status = 'queued' AND attempt = 0 AND kind = w.kind AND parent_id IS NOT DISTINCT FROM w.parent_id
            AND ordinal >= w.fresh_from
          ORDER BY ordinal LIMIT w.n - (SELECT count(*) FROM retried WHERE retried.place = w.place) FOR UPDATE SKIP LOCKED) found
        WHERE (SELECT count(*) FROM starting) >= 0 AND NOT w.stopping
      ), picked AS (
        SELECT id FROM retried UNION ALL SELECT id FROM fresh
      ), t AS (
        UPDATE tasks SET status = 'leased', attempt = tasks.attempt + 1, node_id = $1, lease_expires_at = now() + make_interval(secs => $6), not_before = NULL
        FROM picked WHERE tasks.id = picked.id RETURNING tasks.*
      ), tried AS (
        INSERT INTO attempts (task_id, number, job_id, workspace_id, node_id, status) SELECT id, attempt, job_id, workspace_id, $1, 'leased' FROM t
      ), event AS (
        INSERT INTO events (workspace_id, job_id, task_id, node_id, event, data)
        SELECT workspace_id, job_id, id, $1, 'lease', jsonb_build_object('attempt', attempt) FROM t
      ), started AS (
        UPDATE jobs SET status = 'running', started_at = coalesce(started_at, now()), leased_at = now(), phase = NULL, revision = revision + 1
        WHERE id IN (SELECT job_id FROM t) AND status = 'queued'
      ), served AS MATERIALIZED (
        SELECT id FROM jobs WHERE id IN (SELECT job_id FROM t) AND status = 'running'
          AND (leased_at IS NULL OR leased_at < now() - interval '${LEASED_AT_EVERY_SECONDS} s') FOR NO KEY UPDATE SKIP LOCKED
      ), clocked AS (UPDATE jobs SET leased_at = now() FROM served WHERE jobs.id = served.id)
      SELECT ${LEASED_COLUMNS}, ${PLAN_COLUMNS} FROM t JOIN plans p ON p.id = t.plan_id ORDER BY t.job_id, t.ordinal`,
    values: [
      nodeId,
      allotments.map((given) => given.jobId),
      allotments.map((given) => given.kind),
      allotments.map((given) => given.parentId),
      allotments.map((given) => given.count),
      ttlMs / 1_000,
      allotments.map((given) => progress.get(given.jobId)?.ordinal ?? null),
      allotments.map((given) => progress.get(given.jobId)?.tasksTotal ?? null),
    ],
  });
}

/**
 * The same for a workspace that may have only so many tasks on nodes at once. Its row is locked first, and by nobody else for long, so that all control
 * planes and clusters lease one after the other, and each counts what the one before has taken.
 */
export async function leaseTasksWithin(
  pool: Pick<Pool, "transact">,
  workspaceId: string,
  order: LeaseOrder,
): Promise<LeasedTask[]> {
  return pool.transact(async (sql) => {
    const limits = await sql.query<{ max: number | null }>({
      name: "lock-workspace",
      text: "SELECT tasks_running_max AS max FROM workspaces WHERE id = $1 FOR NO KEY UPDATE",
      values: [workspaceId],
    });
    const taken = await sql.query<{ tasks: number }>({
      name: "count-active",
      text: "SELECT count(*)::int AS tasks FROM tasks WHERE workspace_id = $1 AND node_id IS NOT NULL",
      values: [workspaceId],
    });
    const max = limits[0]?.max ?? Number.POSITIVE_INFINITY;
    const allotments = cutTo(order.allotments, Math.max(0, max - (taken[0]?.tasks ?? 0)));
    return allotments.length === 0 ? [] : leaseTasks(sql, { ...order, allotments });
  });
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

/** Everything that a node holds, as its dispatcher must count it after a reconnect. */
export async function loadHeld(sql: Sql, nodeId: string): Promise<LeasedTask[]> {
  return sql.query<LeasedTask>({
    text: `SELECT ${LEASED_COLUMNS}, p.kind AS plan_kind, (SELECT mode FROM jobs WHERE jobs.id = t.job_id) AS mode,
        NULL::bytea AS sealed_plan, NULL::jsonb AS split_state
      FROM tasks t JOIN plans p ON p.id = t.plan_id WHERE t.node_id = $1 AND t.status = ANY($2) ORDER BY t.job_id, t.ordinal`,
    values: [nodeId, sources(TASK, "requeue")],
  });
}

/** Those of these attempts that are no longer live on the node that was given them. */
export async function findEnded<A extends AttemptKey & { readonly nodeId: string }>(
  sql: Sql,
  attempts: readonly A[],
): Promise<A[]> {
  if (attempts.length === 0) return [];
  const rows = await sql.query<{ place: number }>({
    name: "find-ended",
    text: `SELECT a.place::int - 1 AS place FROM unnest($1::text[], $2::int[], $3::text[]) WITH ORDINALITY AS a(id, attempt, node_id, place)
      LEFT JOIN tasks t ON t.id = a.id AND t.attempt = a.attempt AND t.node_id = a.node_id WHERE t.id IS NULL`,
    values: [attempts.map((one) => one.taskId), attempts.map((one) => one.attempt), attempts.map((one) => one.nodeId)],
  });
  return rows.map(({ place }) => attempts[place] as A);
}
