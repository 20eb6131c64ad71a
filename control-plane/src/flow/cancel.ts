import { Problem } from "@frazil/contracts";
import type { Deps, JobRow } from "./deps.ts";
import { stopJob } from "./settle.ts";

/** Cancels a job: nothing of it starts any more, what runs is told to stop. A task that is being published still finishes. A job that has ended stays as it is. */
export async function cancelJob(deps: Deps, workspaceId: string, jobId: string): Promise<JobRow> {
  const before = (await deps.db.jobs.loadJobOf(deps.pool, workspaceId, jobId))?.job;
  if (before === undefined) throw new Problem("not_found", `There is no job ${jobId}.`);
  if (before.finished_at !== null) return before;
  await deps.db.jobs.requestStop(deps.pool, jobId, null);
  await stopJob(deps, jobId);
  return (await deps.db.jobs.loadJobOf(deps.pool, workspaceId, jobId))?.job ?? before;
}
