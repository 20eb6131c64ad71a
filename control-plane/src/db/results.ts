import type { EngineResult, TaskResult } from "@frazil/contracts";
import type { Sql } from "./pool.ts";
import type { OpenTask } from "./tasks.ts";

export interface NewResult {
  readonly task: Pick<OpenTask, "id" | "job_id" | "ordinal" | "attempt">;
  readonly result: EngineResult;
  readonly head: Buffer | null;
}

/** What was just inserted, as it is read: of a task without a frame and a key. */
export function asRead({ task, result, head }: NewResult, format: TaskResult["format"]): TaskResult {
  const { locations, schema, rows, bytes, warnings } = result;
  const { id, ordinal } = task;
  return asTaskResult({
    ...{ task_id: id as TaskResult["taskId"], ordinal, frame: null, key: null },
    ...{ locations, format, columns: schema, rows, bytes, head, warnings },
  });
}

/** Records results. One per task: a second one is a bug of ours, and the primary key refuses it. */
export async function insertResults(sql: Sql, results: readonly NewResult[]): Promise<void> {
  await sql.query({
    name: "insert-results",
    text: `INSERT INTO results (task_id, job_id, workspace_id, ordinal, attempt, locations, format, columns, rows, bytes, head, warnings)
      SELECT r.task_id, r.job_id, j.workspace_id, r.ordinal, r.attempt, r.locations, j.spec -> 'output' ->> 'format', r.columns, r.rows, r.bytes, r.head,
        r.warnings
      FROM unnest($1::text[], $2::text[], $3::bigint[], $4::int[], $5::jsonb[], $6::jsonb[], $7::bigint[], $8::bigint[], $9::bytea[], $10::jsonb[])
        AS r(task_id, job_id, ordinal, attempt, locations, columns, rows, bytes, head, warnings)
      JOIN jobs j ON j.id = r.job_id`,
    values: [
      results.map((one) => one.task.id),
      results.map((one) => one.task.job_id),
      results.map((one) => one.task.ordinal),
      results.map((one) => one.task.attempt),
      results.map((one) => JSON.stringify(one.result.locations)),
      results.map((one) => JSON.stringify(one.result.schema)),
      results.map((one) => one.result.rows),
      results.map((one) => one.result.bytes),
      results.map((one) => one.head),
      results.map((one) => JSON.stringify(one.result.warnings)),
    ],
  });
}

export interface ResultRow {
  readonly task_id: TaskResult["taskId"];
  readonly ordinal: number;
  readonly frame: number | null;
  readonly key: TaskResult["key"];
  readonly locations: string[];
  readonly format: TaskResult["format"];
  readonly columns: TaskResult["schema"];
  readonly rows: number;
  readonly bytes: number | null;
  readonly head: Buffer | null;
  readonly warnings: TaskResult["warnings"];
}

/** Results of a job behind `after` (an ordinal), in the order of its tasks. */
export async function listResults(
  sql: Sql,
  jobId: string,
  after: number,
  limit: number,
): Promise<{ ordinal: number; result: TaskResult }[]> {
  const rows = await sql.query<ResultRow>({
    name: "list-results",
    text: `SELECT r.task_id, r.ordinal, t.frame, t.key, r.locations, r.format, r.columns, r.rows, r.bytes, r.head, r.warnings
      FROM results r JOIN tasks t ON t.id = r.task_id WHERE r.job_id = $1 AND r.ordinal > $2 ORDER BY r.ordinal LIMIT $3`,
    values: [jobId, after, limit],
  });
  return rows.map((row) => ({ ordinal: row.ordinal, result: asTaskResult(row) }));
}

export function asTaskResult(row: ResultRow): TaskResult {
  return {
    taskId: row.task_id,
    frame: row.frame,
    key: row.key,
    locations: row.locations,
    format: row.format,
    schema: row.columns,
    rows: row.rows,
    bytes: row.bytes,
    head: row.head === null ? null : row.head.toString("base64"),
    warnings: row.warnings,
  };
}
