import { type AttemptRef, SWEEP_ATTEMPTS_MAX, type SweepOrder } from "@frazil/contracts";
import { type Deps, topics } from "./deps.ts";

/** A node that hears that an attempt was lost has killed its engine by then. */
const AFTER_LOSS_MS = 5_000;

/** Step: asks for a node that removes what attempts of an ended job left in storage. Nobody's answer: it is asked again later. */
export async function sweep(deps: Pick<Deps, "db" | "pool" | "changes">, jobId: string): Promise<void> {
  if (await deps.db.sweeps.postponeSweep(deps.pool, jobId)) deps.changes.notify(topics.sweep(jobId));
}

/** Gives the order to a node that is connected to this process, where there is one that reaches what the job has written. */
export async function orderSweep(deps: Pick<Deps, "db" | "pool" | "dispatcher">, jobId: string): Promise<void> {
  const row = await deps.db.sweeps.loadSweep(deps.pool, jobId);
  if (row === undefined) return;
  const clusterId = row.has_cluster ? row.cluster_id : null;
  deps.dispatcher.anyLink(row.workspace_id, clusterId)?.send({ type: "sweep", jobId, token: row.token });
}

/** What a node is to remove, in parts. Undefined: there is no such ended job in its workspace. */
export async function describeSweep(
  deps: Pick<Deps, "db" | "pool" | "templates">,
  workspaceId: string,
  jobId: string,
  after: string | null,
): Promise<SweepOrder | undefined> {
  const from = after === null ? null : attemptOf(after);
  const { pool, db } = deps;
  const attempts = await db.sweeps.listLostAttempts(pool, workspaceId, jobId, from, SWEEP_ATTEMPTS_MAX);
  if (attempts === undefined) return undefined;
  const last = attempts.length < SWEEP_ATTEMPTS_MAX ? undefined : attempts.at(-1);
  return {
    template: await deps.templates.of(jobId),
    attempts,
    next: last === undefined ? null : `${last.taskId}#${last.attempt}`,
  };
}

function attemptOf(text: string): AttemptRef {
  const [taskId = "", attempt] = text.split("#");
  return { taskId, attempt: Number.parseInt(attempt ?? "", 10) || 0 };
}

/** A node has heard that these attempts are not its own any more, and stops them: if their job has ended, what they did since is removed. */
export async function sweepAfterLoss(deps: Pick<Deps, "db" | "pool">, lost: readonly AttemptRef[]): Promise<void> {
  await deps.db.sweeps.sweepAgain(deps.pool, lost, AFTER_LOSS_MS);
}
