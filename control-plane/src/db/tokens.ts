import type { ComputeContext } from "@frazil/contracts";
import type { Sql } from "./pool.ts";

export interface TokenRow {
  readonly id: string;
  readonly workspace_id: string;
  readonly user_name: string;
  readonly hash: Buffer;
  readonly expired: boolean;
  /** Null: never. */
  readonly expires_in_ms: number | null;
}

export async function findToken(sql: Sql, prefix: string): Promise<TokenRow | undefined> {
  const rows = await sql.query<TokenRow>({
    name: "find-token",
    text: `SELECT id, workspace_id, user_name, hash, coalesce(expires_at <= now(), false) AS expired,
        extract(epoch FROM expires_at - now())::float8 * 1000 AS expires_in_ms FROM api_tokens
      WHERE prefix = $1 AND revoked_at IS NULL`,
    values: [prefix],
  });
  return rows[0];
}

export interface NewToken {
  readonly id: string;
  readonly workspaceId: string;
  readonly userName: string;
  readonly label: string;
  readonly prefix: string;
  readonly hash: Buffer;
}

export async function insertToken(sql: Sql, token: NewToken): Promise<void> {
  await sql.query({
    text: "INSERT INTO api_tokens (id, workspace_id, user_name, label, prefix, hash) VALUES ($1, $2, $3, $4, $5, $6)",
    values: [token.id, token.workspaceId, token.userName, token.label, token.prefix, token.hash],
  });
}

export interface WorkspaceRow {
  readonly id: string;
  readonly name: string;
  readonly default_context: ComputeContext;
  readonly results_location: string;
  readonly keep_heads: boolean;
}

export async function loadWorkspace(sql: Sql, workspaceId: string): Promise<WorkspaceRow | undefined> {
  const rows = await sql.query<WorkspaceRow>({
    name: "load-workspace",
    text: "SELECT * FROM workspaces WHERE id = $1",
    values: [workspaceId],
  });
  return rows[0];
}

export interface WorkspaceUse {
  readonly id: string;
  readonly name: string;
  readonly tasks_running_max: number | null;
  readonly tasks_running: number;
}

export async function loadWorkspaceUse(sql: Sql, workspaceId: string): Promise<WorkspaceUse | undefined> {
  const rows = await sql.query<WorkspaceUse>({
    text: `SELECT id, name, tasks_running_max,
        (SELECT count(*)::int FROM tasks t WHERE t.workspace_id = w.id AND t.node_id IS NOT NULL) AS tasks_running
      FROM workspaces w WHERE id = $1`,
    values: [workspaceId],
  });
  return rows[0];
}

/** Holds for what is leased from then on: nothing is taken off its node. */
export async function limitWorkspace(sql: Sql, workspaceId: string, tasksRunningMax: number | null): Promise<void> {
  await sql.query({
    text: "UPDATE workspaces SET tasks_running_max = $2 WHERE id = $1",
    values: [workspaceId, tasksRunningMax],
  });
}

/** Makes the workspace of this name, or returns the one that is there. */
export async function ensureWorkspace(sql: Sql, workspace: WorkspaceRow): Promise<WorkspaceRow> {
  const rows = await sql.query<WorkspaceRow>({
    text: `INSERT INTO workspaces (id, name, default_context, results_location, keep_heads) VALUES ($1, $2, $3, $4, $5)
      ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING *`,
    values: [workspace.id, workspace.name, workspace.default_context, workspace.results_location, workspace.keep_heads],
  });
  return rows[0] as WorkspaceRow;
}
