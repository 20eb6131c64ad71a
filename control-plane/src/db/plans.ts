import { mintId, type PlanId } from "@frazil/contracts";
import type { Sql } from "./pool.ts";

export interface NewPlan {
  readonly hash: Buffer;
  readonly kind: "dsl" | "sql";
  readonly sealed: Buffer;
  readonly sizeBytes: number;
}

/** Stores plans by content within a workspace and returns their ids, in order. A plan that is there already keeps its id. */
export async function storePlans(sql: Sql, workspaceId: string, plans: readonly NewPlan[]): Promise<PlanId[]> {
  const rows = await sql.query<{ id: PlanId; hash: Buffer }>({
    name: "store-plans",
    // The no-op update makes RETURNING give the row that was there, and locks it against the retention sweep.
    text: `INSERT INTO plans (id, workspace_id, hash, kind, sealed, size_bytes)
      SELECT p.id, $1, p.hash, p.kind, p.sealed, p.size_bytes
      FROM unnest($2::text[], $3::bytea[], $4::text[], $5::bytea[], $6::int[]) AS p(id, hash, kind, sealed, size_bytes)
      ORDER BY p.hash
      ON CONFLICT (workspace_id, hash) DO UPDATE SET created_at = now()
      RETURNING id, hash`,
    values: [
      workspaceId,
      plans.map(() => mintId("plan")),
      plans.map((plan) => plan.hash),
      plans.map((plan) => plan.kind),
      plans.map((plan) => plan.sealed),
      plans.map((plan) => plan.sizeBytes),
    ],
  });
  const byHash = new Map(rows.map((row) => [row.hash.toString("base64"), row.id]));
  return plans.map((plan) => byHash.get(plan.hash.toString("base64")) as PlanId);
}

/** A plan for a node: only one of its own workspace. */
export async function loadSealedPlan(sql: Sql, workspaceId: string, planId: string): Promise<Buffer | undefined> {
  const rows = await sql.query<{ sealed: Buffer }>({
    text: "SELECT sealed FROM plans WHERE id = $1 AND workspace_id = $2",
    values: [planId, workspaceId],
  });
  return rows[0]?.sealed;
}
