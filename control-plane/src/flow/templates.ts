import { HEAD_BYTES_MAX, JobSpec, type RunTemplate } from "@frazil/contracts";
import type { Deps, JobRow, WorkspaceRow } from "./deps.ts";

/** Templates kept per process: jobs that were leased lately. */
const KEPT_MAX = 500;

export interface Templates {
  of(jobId: string): Promise<RunTemplate>;
  /** Keeps the template of a job that was just submitted here, so that its lease need not read it back. */
  keep(template: RunTemplate): void;
}

/** Makes (and keeps for a while) what all runs of a job share. Secrets are opened here, and only leave to the nodes of the job's own workspace. */
export function openTemplates(deps: Pick<Deps, "db" | "pool" | "sealer">): Templates {
  const kept = new Map<string, Promise<RunTemplate>>();
  const put = (jobId: string, made: Promise<RunTemplate>) => {
    kept.set(jobId, made);
    if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value as string);
    return made;
  };
  return {
    of(jobId) {
      const known = kept.get(jobId);
      if (known !== undefined) return known;
      const made = loadTemplate(deps, jobId);
      made.catch(() => kept.delete(jobId));
      return put(jobId, made);
    },
    keep: (template) => void put(template.jobId, Promise.resolve(template)),
  };
}

async function loadTemplate(deps: Pick<Deps, "db" | "pool" | "sealer">, jobId: string): Promise<RunTemplate> {
  const job = await deps.db.jobs.loadJob(deps.pool, jobId);
  if (job === undefined) throw new Error(`leased a task of ${jobId}, which is not there`);
  const workspace = await deps.db.tokens.loadWorkspace(deps.pool, job.workspace_id);
  if (workspace === undefined) throw new Error(`${jobId} belongs to no workspace`);
  const spec = JobSpec.parse(JSON.parse(deps.sealer.open(job.sealed, job.workspace_id).toString("utf8")));
  return makeTemplate(job, spec, workspace);
}

export function makeTemplate(
  job: Pick<JobRow, "id" | "user_name">,
  spec: JobSpec,
  workspace: WorkspaceRow,
): RunTemplate {
  return {
    jobId: job.id,
    workspaceId: workspace.id,
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
}
