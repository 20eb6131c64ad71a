import type { NodeLogLine } from "@frazil/contracts";
import type { Sql } from "./pool.ts";

/** Appends log lines of attempts that this node has or had. A repeat (same task, attempt and number) is dropped. Returns the jobs that got lines. */
export async function appendLogs(sql: Sql, nodeId: string, lines: readonly NodeLogLine[]): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    name: "append-logs",
    text: `WITH added AS (
        INSERT INTO logs (workspace_id, job_id, task_id, attempt, seq, stream, at, text)
        SELECT a.workspace_id, a.job_id, a.task_id, a.number, l.seq, l.stream, l.at, l.text
        FROM unnest($2::text[], $3::int[], $4::int[], $5::text[], $6::timestamptz[], $7::text[]) AS l(task_id, attempt, seq, stream, at, text)
        JOIN attempts a ON a.task_id = l.task_id AND a.number = l.attempt AND a.node_id = $1
        ON CONFLICT (task_id, attempt, seq) DO NOTHING RETURNING job_id
      )
      UPDATE jobs SET log_lines = log_lines + n.count, revision = revision + 1
      FROM (SELECT job_id, count(*)::int AS count FROM added GROUP BY job_id ORDER BY job_id) n WHERE jobs.id = n.job_id RETURNING jobs.id`,
    values: [
      nodeId,
      lines.map((line) => line.taskId),
      lines.map((line) => line.attempt),
      lines.map((line) => line.seq),
      lines.map((line) => line.stream),
      lines.map((line) => line.at),
      // Postgres text holds no NUL.
      lines.map((line) => line.text.replaceAll("\u0000", "\u2400")),
    ],
  });
  return rows.map((row) => row.id);
}
