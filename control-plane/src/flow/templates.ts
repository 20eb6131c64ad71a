import { HEAD_BYTES_MAX, JobSpec, type RunTemplate } from "@frazil/contracts";
import type { Deps, JobRow } from "./deps.ts";

/** Templates kept per process: jobs that were leased lately. */
const KEPT_MAX = 500;

export type TemplateSource = (
  jobId: string,
) => Promise<{ template: RunTemplate; job: Pick<JobRow, "mode" | "user_name"> }>;

/** Makes (and keeps for a while) what all runs of a job share. Secrets are opened here, and only leave to the nodes of the job's own workspace. */
export function keepTemplates(deps: Pick<Deps, "db" | "pool" | "sealer">): TemplateSource {
  const kept = new Map<string, ReturnType<TemplateSource>>();
  return (jobId) => {
    const known = kept.get(jobId);
    if (known !== undefined) return known;
    const made = makeTemplate(deps, jobId);
    kept.set(jobId, made);
    made.catch(() => kept.delete(jobId));
    if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value as string);
    return made;
  };
}

async function makeTemplate(deps: Pick<Deps, "db" | "pool" | "sealer">, jobId: string) {
  const job = await deps.db.jobs.loadJob(deps.pool, jobId);
  if (job === undefined) throw new Error(`leased a task of ${jobId}, which is not there`);
  const workspace = await deps.db.tokens.loadWorkspace(deps.pool, job.workspace_id);
  if (workspace === undefined) throw new Error(`${jobId} belongs to no workspace`);
  const spec = JobSpec.parse(JSON.parse(deps.sealer.open(job.sealed, job.workspace_id).toString("utf8")));
  const template: RunTemplate = {
    jobId,
    workspaceId: job.workspace_id,
    user: job.user_name,
    polars: spec.client.polars,
    python: spec.client.python,
    hasPython: spec.client.hasPython,
    packages: spec.context?.packages ?? [],
    env: spec.context?.env ?? {},
    engine: spec.engine,
    output: spec.output,
    resultsLocation: workspace.results_location,
    partitionBy: spec.partitionBy,
    splitState: null,
    seed: spec.seed,
    cwd: spec.client.cwd ?? null,
    headBytesMax: workspace.keep_heads ? HEAD_BYTES_MAX : 0,
    timeoutMs: spec.timeoutMs,
  };
  return { template, job };
}
