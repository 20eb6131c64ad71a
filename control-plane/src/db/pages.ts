import { type ErrorInfo, type FailureGroup, type LogLine, type Task, TaskStatus } from "@frazil/contracts";
import type { ClusterRow } from "./clusters.ts";
import type { PrismaClient } from "./generated/client.ts";
import { JOB_COLUMNS, type JobRow } from "./jobs.ts";
import type { Sql } from "./pool.ts";

/** Lists for people: keyset pages, newest first for jobs and clusters, in order for tasks and logs. */
export interface JobFilter {
  readonly status?: string | undefined;
  readonly mode?: string | undefined;
  readonly user?: string | undefined;
  readonly label?: { readonly key: string; readonly value: string } | undefined;
}

export async function pageJobs(
  sql: Sql,
  workspaceId: string,
  filter: JobFilter,
  cursor: string | undefined,
  limit: number,
): Promise<JobRow[]> {
  const values: unknown[] = [workspaceId, limit];
  // Containment, which the index on labels answers; Prisma's filters on JSON do not use it.
  const conditions = Object.entries({
    "status =": filter.status,
    "mode =": filter.mode,
    "user_name =": filter.user,
    "labels @>": filter.label === undefined ? undefined : { [filter.label.key]: filter.label.value },
    "id <": cursor,
  }).flatMap(([comparison, value]) => (value === undefined ? [] : [`AND ${comparison} $${values.push(value)}`]));
  return sql.query<JobRow>({
    text: `SELECT ${JOB_COLUMNS} FROM jobs WHERE workspace_id = $1 ${conditions.join(" ")} ORDER BY id DESC LIMIT $2`,
    values,
  });
}

/** Prisma's names are the schema's in camelCase; the rest of the code speaks the columns' own. */
function asJobRow(row: Record<string, unknown>): JobRow {
  const columns = Object.entries(row).map(([name, value]) => [
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    value,
  ]);
  return Object.fromEntries(columns) as unknown as JobRow;
}

interface TaskRow extends Pick<Task, "id" | "status" | "frame" | "key" | "attempt" | "phase" | "error"> {
  readonly job_id: Task["jobId"];
  readonly ordinal: number;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
}
/** What is shown of a task. Others, such as what a split handed on, may be large. */
const TASK_COLUMNS = `id, job_id, status, ordinal, frame, key, attempt, phase, error, created_at, started_at, finished_at`;

/** Tasks of a job behind `after`, in order; those that find keys only if that is how they ended. */
export async function pageTasks(
  sql: Sql,
  jobId: string,
  status: Task["status"] | undefined,
  after: number,
  limit: number,
) {
  const rows = await sql.query<TaskRow>({
    name: "page-tasks",
    // A page of each status, and of these the first: an index in order of all tasks would have to be written with every change of each of them.
    text: `SELECT t.* FROM unnest($2::text[]) AS wanted(status) CROSS JOIN LATERAL (
        SELECT ${TASK_COLUMNS} FROM tasks WHERE job_id = $1 AND status = wanted.status AND ordinal > $3
          AND (kind <> 'split' OR status IN ('failed', 'cancelled')) ORDER BY ordinal LIMIT $4) t
      ORDER BY t.ordinal LIMIT $4`,
    values: [jobId, status === undefined ? TaskStatus.options : [status], after, limit],
  });
  return rows.map(({ ordinal, job_id, created_at, started_at, finished_at, ...row }) => ({
    ordinal,
    task: {
      id: row.id,
      jobId: job_id,
      status: row.status,
      frame: row.frame,
      key: row.key,
      attempt: row.attempt,
      phase: row.phase,
      error: row.error,
      createdAt: created_at.toISOString(),
      startedAt: started_at?.toISOString() ?? null,
      finishedAt: finished_at?.toISOString() ?? null,
    } satisfies Task,
  }));
}

export async function pageLogs(
  prisma: PrismaClient,
  jobId: string,
  taskId: string | undefined,
  after: bigint,
  limit: number,
): Promise<LogLine[]> {
  const rows = await prisma.logLine.findMany({
    where: { jobId, id: { gt: after }, ...(taskId === undefined ? {} : { taskId }) },
    orderBy: { id: "asc" },
    take: limit,
  });
  return rows.map((row) => ({
    id: row.id.toString(),
    at: row.at.toISOString(),
    taskId: row.taskId as LogLine["taskId"],
    attempt: row.attempt,
    stream: row.stream as LogLine["stream"],
    text: row.text,
  }));
}

export async function pageClusters(
  prisma: PrismaClient,
  workspaceId: string,
  status: string | undefined,
  cursor: string | undefined,
  limit: number,
) {
  const rows = await prisma.cluster.findMany({
    where: {
      workspaceId,
      ...(status === undefined ? {} : { status }),
      ...(cursor === undefined ? {} : { id: { lt: cursor } }),
    },
    orderBy: { id: "desc" },
    take: limit,
    include: { nodes: { where: { status: { not: "terminated" } }, select: { status: true } } },
  });
  return rows.map(({ nodes, ...row }) => ({
    row: asJobRow(row as unknown as Record<string, unknown>) as unknown as ClusterRow,
    nodes: { ready: nodes.filter((node) => node.status === "ready").length, total: nodes.length },
  }));
}

const GROUPS_MAX = 50;
const FRAMES_SHOWN_MAX = 20;

/** Failures of a job that have the same code, exception and message, most frequent first. */
export async function groupFailures(sql: Sql, jobId: string): Promise<FailureGroup[]> {
  const rows = await sql.query<{ error: ErrorInfo; count: number; example: string; frames: number[] }>({
    // Errors, which may be long, are read of the groups that are shown only.
    text: `WITH groups AS MATERIALIZED (
        SELECT failure_key, count(*)::int AS count, min(ordinal) AS first FROM tasks WHERE job_id = $1 AND status = 'failed'
        GROUP BY failure_key ORDER BY count(*) DESC, min(ordinal) LIMIT $3
      )
      SELECT t.error, g.count, t.id AS example, ARRAY(
          SELECT f.frame FROM tasks f WHERE f.job_id = $1 AND f.status = 'failed' AND f.failure_key = g.failure_key AND f.frame IS NOT NULL
          ORDER BY f.ordinal LIMIT $2) AS frames
      FROM groups g JOIN tasks t ON t.job_id = $1 AND t.status = 'failed' AND t.ordinal = g.first ORDER BY g.count DESC, g.first`,
    values: [jobId, FRAMES_SHOWN_MAX, GROUPS_MAX],
  });
  return rows.map((row) => ({
    error: row.error,
    count: row.count,
    exampleTaskId: row.example as FailureGroup["exampleTaskId"],
    frames: row.frames,
  }));
}
