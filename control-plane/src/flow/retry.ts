import { isFinalJobStatus, JobSpec, mintId, Problem } from "@frazil/contracts";
import { hashShape } from "../domain/shape.ts";
import type { Deps, JobRow } from "./deps.ts";
import { announce } from "./submit.ts";

/** Makes a new job of the failed and cancelled tasks of one that has ended, linked to it. Ended states are final: the first job stays as it is. */
export async function retryJob(deps: Deps, workspaceId: string, user: string, jobId: string): Promise<JobRow> {
  const before = (await deps.db.jobs.loadJobOf(deps.pool, workspaceId, jobId))?.job;
  if (before === undefined) throw new Problem("not_found", `There is no job ${jobId}.`);
  if (!isFinalJobStatus(before.status))
    throw new Problem(
      "conflict",
      `Job ${jobId} is ${before.status}; it can be retried once it has ended, or cancel it first.`,
    );
  const open = await deps.db.jobTasks.countUnfinished(deps.pool, jobId);
  if (open.splits + open.tasks === 0)
    throw new Problem("conflict", `Every task of job ${jobId} succeeded; there is nothing to retry.`);
  const spec = JobSpec.parse(JSON.parse(deps.sealer.open(before.sealed, workspaceId).toString("utf8")));
  const job = await deps.pool.transact(async (sql) => {
    const made = await deps.db.jobs.insertJob(
      sql,
      {
        id: mintId("job"),
        workspaceId,
        userName: user,
        mode: before.mode,
        spec: before.spec,
        sealed: deps.sealer.seal(Buffer.from(JSON.stringify(spec)), workspaceId),
        shape: before.shape,
        shapeHash: hashShape(before.shape),
        clusterId: null,
        idempotencyKey: null,
        requestHash: null,
        retryOf: jobId,
      },
      { kind: "query", ids: [], frames: [], planIds: [], newPlan: null, claim: null },
    );
    if (made === undefined) throw new Error("a job without an idempotency key was not inserted");
    await deps.db.jobTasks.copyUnfinished(
      sql,
      jobId,
      made.id,
      Array.from({ length: open.splits + open.tasks }, () => mintId("task")),
    );
    return deps.db.jobs.tallyJob(sql, {
      jobId: made.id,
      succeeded: 0,
      failed: 0,
      cancelled: 0,
      splitsDone: -open.splits,
      added: open.tasks,
    });
  });
  announce(deps, job);
  return job;
}
