import type { AttemptRef } from "@frazil/contracts";
import type { Sql } from "./pool.ts";

/** A job that could not be swept by then (its storage is gone, or no node ever came) stays as it is. */
const GIVE_UP_AFTER = "interval '7 days'";
/** From one try to the next at least; longer the older the job is. */
const AGAIN_AFTER = "greatest(interval '30 seconds', (now() - finished_at) / 2)";

/** Ended jobs of which something may be left in storage, the longest due first. */
export async function findSweepable(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `SELECT id FROM jobs WHERE sweep_due_at <= now() AND finished_at > now() - ${GIVE_UP_AFTER} ORDER BY sweep_due_at LIMIT $1`,
    values: [limit],
  });
  return rows.map((row) => row.id);
}

export interface SweepRow {
  readonly workspace_id: string;
  readonly cluster_id: string | null;
  /** Nodes of its cluster may come, or are there. */
  readonly has_cluster: boolean;
  /** Names this try: an answer to an earlier one does not end the sweeping. */
  readonly token: string;
}

/** Puts a due sweep off, in case that nobody answers. False when it is not due. */
export async function postponeSweep(sql: Sql, jobId: string): Promise<boolean> {
  const rows = await sql.query({
    text: `UPDATE jobs SET sweep_due_at = now() + ${AGAIN_AFTER} WHERE id = $1 AND sweep_due_at <= now() RETURNING 1`,
    values: [jobId],
  });
  return rows.length > 0;
}

export async function loadSweep(sql: Sql, jobId: string): Promise<SweepRow | undefined> {
  const rows = await sql.query<SweepRow>({
    text: `SELECT j.workspace_id, j.cluster_id, j.sweep_due_at::text AS token, coalesce(c.status IN ('requested', 'starting', 'ready'), false) AS has_cluster
      FROM jobs j LEFT JOIN clusters c ON c.id = j.cluster_id WHERE j.id = $1 AND j.sweep_due_at IS NOT NULL`,
    values: [jobId],
  });
  return rows[0];
}

/** Attempts of an ended job that did not succeed, in order: those after the one that `after` names. Undefined: no ended job of this workspace. */
export async function listLostAttempts(
  sql: Sql,
  workspaceId: string,
  jobId: string,
  after: AttemptRef | null,
  limit: number,
): Promise<AttemptRef[] | undefined> {
  const jobs = await sql.query({
    text: "SELECT 1 FROM jobs WHERE id = $1 AND workspace_id = $2 AND finished_at IS NOT NULL",
    values: [jobId, workspaceId],
  });
  if (jobs.length === 0) return undefined;
  return sql.query<AttemptRef>({
    text: `SELECT task_id AS "taskId", number AS attempt FROM attempts WHERE job_id = $1 AND status IN ('failed', 'lost', 'released')
        AND (task_id, number) > ($2, $3) ORDER BY task_id, number LIMIT $4`,
    values: [jobId, after?.taskId ?? "", after?.attempt ?? 0, limit],
  });
}

/** The sweep that this token names has left nothing. */
export async function endSweep(sql: Sql, workspaceId: string, jobId: string, token: string): Promise<void> {
  await sql.query({
    text: "UPDATE jobs SET sweep_due_at = NULL WHERE id = $1 AND workspace_id = $2 AND sweep_due_at::text = $3",
    values: [jobId, workspaceId, token],
  });
}

/** Attempts that lost and have only now been heard of: what they did since their job ended is swept, after a while. */
export async function sweepAgain(sql: Sql, attempts: readonly AttemptRef[], afterMs: number): Promise<void> {
  if (attempts.length === 0) return;
  await sql.query({
    name: "sweep-again",
    text: `UPDATE jobs SET sweep_due_at = now() + make_interval(secs => $3) WHERE finished_at IS NOT NULL AND id IN (
        SELECT a.job_id FROM attempts a JOIN unnest($1::text[], $2::int[]) AS lost(id, number) ON a.task_id = lost.id AND a.number = lost.number
        WHERE a.status IN ('failed', 'lost', 'released'))`,
    values: [attempts.map((one) => one.taskId), attempts.map((one) => one.attempt), afterMs / 1_000],
  });
}
