import { isFinalJobStatus, JobSpec, mintId, Problem } from "@frazil/contracts";
import { hashShape } from "../domain/shape.ts";
import type { Deps, JobRow } from "./deps.ts";
import { repeatableOf, sameAsFirst } from "./repeats.ts";
import { NOTHING_COUNTED } from "./settle.ts";
import { announce } from "./submit.ts";

export interface Retry {
  readonly workspaceId: string;
  readonly user: string;
  readonly jobId: string;
  readonly idempotencyKey: string | null;
}

/** Makes a new job of the failed and cancelled tasks of one that has ended, linked to it. Ended states are final: the first job stays as it is. */
export async function retryJob(deps: Deps, { workspaceId, user, jobId, idempotencyKey }: Retry): Promise<JobRow> {
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
  const repeatable = repeatableOf(idempotencyKey, "retry", jobId);
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
        ...repeatable,
        retryOf: jobId,
      },
      { kind: "query", ids: [], frames: [], planIds: [], more: 0, newPlan: null, claim: null },
    );
    if (made === undefined) return undefined;
    await deps.db.jobTasks.copyUnfinished(sql, jobId, made.id);
    return deps.db.jobEnds.tallyJob(sql, made, {
      jobId: made.id,
      ...NOTHING_COUNTED,
      splitsDone: -open.splits,
      added: open.tasks,
    });
  });
  if (job === undefined)
    return sameAsFirst(await deps.db.jobs.findJobByKey(deps.pool, workspaceId, idempotencyKey ?? ""), repeatable);
  announce(deps, job);
  return job;
}
