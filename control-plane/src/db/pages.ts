import type { ErrorInfo, FailureGroup, LogLine, Task } from "@frazil/contracts";
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

/** What is shown of a task. Others, such as what a split handed on, may be large. */
const TASK_SHOWN = {
  id: true,
  jobId: true,
  status: true,
  ordinal: true,
  frame: true,
  key: true,
  attempt: true,
  phase: true,
  error: true,
  createdAt: true,
  startedAt: true,
  finishedAt: true,
} as const;

export async function pageTasks(
  prisma: PrismaClient,
  jobId: string,
  status: string | undefined,
  after: number,
  limit: number,
) {
  const rows = await prisma.task.findMany({
    where: {
      jobId,
      OR: [{ kind: { not: "split" } }, { status: { in: ["failed", "cancelled"] } }],
      ordinal: { gt: BigInt(after) },
      ...(status === undefined ? {} : { status }),
    },
    orderBy: { ordinal: "asc" },
    take: limit,
    select: TASK_SHOWN,
  });
  return rows.map((row) => ({
    ordinal: Number(row.ordinal),
    task: {
      id: row.id as Task["id"],
      jobId: row.jobId as Task["jobId"],
      status: row.status as Task["status"],
      frame: row.frame,
      key: row.key as Task["key"],
      attempt: row.attempt,
      phase: row.phase,
      error: row.error as ErrorInfo | null,
      createdAt: row.createdAt.toISOString(),
      startedAt: row.startedAt?.toISOString() ?? null,
      finishedAt: row.finishedAt?.toISOString() ?? null,
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
      FROM groups g JOIN tasks t ON t.job_id = $1 AND t.ordinal = g.first ORDER BY g.count DESC, g.first`,
    values: [jobId, FRAMES_SHOWN_MAX, GROUPS_MAX],
  });
  return rows.map((row) => ({
    error: row.error,
    count: row.count,
    exampleTaskId: row.example as FailureGroup["exampleTaskId"],
    frames: row.frames,
  }));
}
