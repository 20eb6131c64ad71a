import { Problem } from "@frazil/contracts";
import type { Deps, JobRow } from "./deps.ts";
import { announceSettled, cancelOpenTasks, type Settled } from "./settle.ts";

/** Cancels a job: nothing of it starts any more, what runs is told to stop. A task that is being published still finishes. A job that has ended stays as it is. */
export async function cancelJob(deps: Deps, workspaceId: string, jobId: string): Promise<JobRow> {
  const settled = await deps.pool.transact(async (sql): Promise<Settled | undefined> => {
    const asked = await deps.db.jobs.requestCancel(sql, workspaceId, jobId);
    if (asked === undefined) return undefined;
    const stopped = await cancelOpenTasks(deps, sql, asked);
    return { jobs: [await deps.db.jobs.endJobIfDone(sql, stopped.job)], cancelled: stopped.cancelled };
  });
  if (settled !== undefined) announceSettled(deps, settled);
  const job = (await deps.db.jobs.loadJobOf(deps.pool, workspaceId, jobId))?.job;
  if (job === undefined) throw new Problem("not_found", `There is no job ${jobId}.`);
  return job;
}
