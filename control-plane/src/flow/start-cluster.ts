import { mintId, Problem, type StartCluster } from "@frazil/contracts";
import type { z } from "zod";
import { hashShape, shapeOf } from "../domain/shape.ts";
import type { Deps, WorkspaceRow } from "./deps.ts";
import { repeatableOf, sameAsFirst } from "./repeats.ts";
import { cloudOf, defaultCloud } from "./submit.ts";

/** Writes the intent to have a cluster, and returns its id. The same request with the same idempotency key gives the same cluster, however often it comes. */
export async function startCluster(
  deps: Pick<Deps, "pool" | "db" | "clouds" | "queue">,
  workspace: WorkspaceRow,
  wanted: z.output<typeof StartCluster>,
  idempotencyKey: string | null,
): Promise<string> {
  const shape = shapeOf(wanted.context, defaultCloud(workspace));
  const refusal = cloudOf(deps, shape).refusal(shape);
  if (refusal !== undefined) throw new Problem("not_available", refusal);
  const repeatable = repeatableOf(idempotencyKey, "start", JSON.stringify(wanted));
  const made = await deps.db.clusters.insertCluster(deps.pool, {
    id: mintId("cluster"),
    workspaceId: workspace.id,
    name: wanted.name,
    shape,
    shapeHash: hashShape(shape),
    idleTimeoutSeconds: wanted.context.idleTimeoutSeconds,
    ...repeatable,
  });
  if (made === undefined) {
    const first = await deps.db.clusters.findClusterByKey(deps.pool, workspace.id, idempotencyKey ?? "");
    return sameAsFirst(first, repeatable).id;
  }
  deps.queue.send("provision", made.id);
  return made.id;
}
