import type { NodeLogLine } from "@frazil/contracts";
import type { Sql } from "./pool.ts";

/** Appends log lines of attempts that this node has or had. A repeat (same task, attempt and number) is dropped. Returns the jobs that got lines. */
export async function appendLogs(sql: Sql, nodeId: string, lines: readonly NodeLogLine[]): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    name: "append-logs",
    // The jobs are locked before ids are drawn, so that a job's lines become visible in the order of their ids, and a reader behind the last misses none.
    text: `WITH lines AS MATERIALIZED (
        SELECT a.workspace_id, a.job_id, a.task_id, a.number, l.seq, l.stream, l.at, l.text, l.place
        FROM unnest($2::text[], $3::int[], $4::int[], $5::text[], $6::timestamptz[], $7::text[])
          WITH ORDINALITY AS l(task_id, attempt, seq, stream, at, text, place)
        JOIN attempts a ON a.task_id = l.task_id AND a.number = l.attempt AND a.node_id = $1
      ), locked AS MATERIALIZED (
        SELECT id FROM jobs WHERE id IN (SELECT job_id FROM lines) ORDER BY id FOR NO KEY UPDATE
      ), added AS (
        INSERT INTO logs (workspace_id, job_id, task_id, attempt, seq, stream, at, text)
        SELECT workspace_id, job_id, task_id, number, seq, stream, at, text FROM lines WHERE (SELECT count(*) FROM locked) > 0 ORDER BY place
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
