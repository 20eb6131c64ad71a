import { HEAD_BYTES_MAX, JobSpec, type RunTemplate } from "@frazil/contracts";
import type { Deps, JobRow, WorkspaceRow } from "./deps.ts";

/** Templates kept per process: jobs that were leased lately. */
const KEPT_MAX = 500;
/** All of them together: a few hundred of the largest would take the memory that submissions need. */
const KEPT_BYTES_MAX = 64 * 1024 * 1024;

export interface Templates {
  of(jobId: string): Promise<RunTemplate>;
  /** Keeps the template of a job that was just submitted here, so that its lease need not read it back. `bytes`: what it takes, about. */
  keep(template: RunTemplate, bytes: number): void;
}

/** Makes (and keeps for a while) what all runs of a job share. Secrets are opened here, and only leave to the nodes of the job's own workspace. */
export function openTemplates(deps: Pick<Deps, "db" | "pool" | "sealer">): Templates {
  const kept = new Map<string, { readonly made: Promise<RunTemplate>; readonly bytes: number }>();
  let bytesKept = 0;
  const drop = (jobId: string) => {
    bytesKept -= kept.get(jobId)?.bytes ?? 0;
    kept.delete(jobId);
  };
  const put = (jobId: string, made: Promise<RunTemplate>, bytes: number) => {
    drop(jobId);
    kept.set(jobId, { made, bytes });
    bytesKept += bytes;
    for (const oldest of kept.keys()) {
      if (kept.size <= KEPT_MAX && bytesKept <= KEPT_BYTES_MAX) return;
      drop(oldest);
    }
  };
  return {
    of(jobId) {
      const known = kept.get(jobId);
      if (known !== undefined) return known.made;
      const loading = loadTemplate(deps, jobId);
      const made = loading.then(({ template }) => template);
      // Its size is known once it is there; whoever asks meanwhile waits for the same one.
      put(jobId, made, 0);
      loading.then(
        ({ bytes }) => put(jobId, made, bytes),
        () => drop(jobId),
      );
      return made;
    },
    keep: (template, bytes) => put(template.jobId, Promise.resolve(template), bytes),
  };
}

/** The template, and the bytes of the spec that it is made from. */
async function loadTemplate(
  deps: Pick<Deps, "db" | "pool" | "sealer">,
  jobId: string,
): Promise<{ template: RunTemplate; bytes: number }> {
  const job = await deps.db.jobs.loadJob(deps.pool, jobId);
  if (job === undefined) throw new Error(`leased a task of ${jobId}, which is not there`);
  const workspace = await deps.db.tokens.loadWorkspace(deps.pool, job.workspace_id);
  if (workspace === undefined) throw new Error(`${jobId} belongs to no workspace`);
  const spec = JobSpec.parse(JSON.parse(deps.sealer.open(job.sealed, job.workspace_id).toString("utf8")));
  return { template: makeTemplate(job, spec, workspace), bytes: job.sealed.length };
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
