import { type Cluster, isFinalJobStatus, type Job, Problem } from "@frazil/contracts";
import { type Deps, type Prisma, topics } from "../flow/deps.ts";
import { viewCluster, viewJob } from "./views.ts";

export interface HttpDeps extends Deps {
  readonly prisma: Prisma;
}

/** A waiter looks again after this long even if nobody woke it. */
const LOOK_AGAIN_MS = 5_000;

export async function readJob(deps: Deps, workspaceId: string, jobId: string): Promise<Job> {
  const reading = await deps.db.jobs.loadJobOf(deps.pool, workspaceId, jobId);
  if (reading === undefined) throw new Problem("not_found", `There is no job ${jobId} in this workspace.`);
  return viewJob(reading.job, reading.result);
}

/**
 * Answers when `isEnough` holds, after `seconds`, or when the caller went away. Never misses a change: it subscribes before it looks. `known` is what the
 * caller has just seen, instead of the first look.
 */
export async function waitForJob(
  deps: Deps,
  workspaceId: string,
  jobId: string,
  wait: {
    seconds: number;
    signal: AbortSignal;
    isEnough?: ((job: Job) => boolean) | undefined;
    known?: Job | undefined;
  },
): Promise<Job> {
  const isEnough = wait.isEnough ?? ((job: Job) => isFinalJobStatus(job.status));
  const topic = wait.isEnough === undefined ? topics.jobEnd(jobId) : topics.job(jobId);
  let { known } = wait;
  let hasWaited = false;
  const look = async () => {
    // Only who has waited is told from memory: whoever comes asks the database.
    const ended = hasWaited ? deps.endings.of(workspaceId, jobId) : undefined;
    const job = ended === undefined ? known : viewJob(ended.job, ended.result);
    known = undefined;
    hasWaited = true;
    return job ?? readJob(deps, workspaceId, jobId);
  };
  return waitUntil(deps, topic, wait, look, isEnough);
}

async function waitUntil<T>(
  deps: Pick<Deps, "changes">,
  topic: string,
  wait: { seconds: number; signal: AbortSignal },
  look: () => Promise<T>,
  isEnough: (value: T) => boolean,
): Promise<T> {
  const deadline = performance.now() + wait.seconds * 1_000;
  for (;;) {
    const stop = new AbortController();
    const left = Math.max(0, deadline - performance.now());
    const change = deps.changes.next(topic, Math.min(left, LOOK_AGAIN_MS), AbortSignal.any([wait.signal, stop.signal]));
    try {
      const value = await look();
      if (isEnough(value) || left === 0 || wait.signal.aborted) return value;
      await change;
    } finally {
      stop.abort();
    }
  }
}

export async function readCluster(deps: Deps, workspaceId: string, clusterId: string): Promise<Cluster> {
  const row = await deps.db.clusters.loadCluster(deps.pool, clusterId);
  if (row === undefined || row.workspace_id !== workspaceId)
    throw new Problem("not_found", `There is no cluster ${clusterId} in this workspace.`);
  const nodes = await deps.db.clusters.listNodes(deps.pool, clusterId);
  const activeJobs = await deps.db.clusters.countActiveJobs(deps.pool, clusterId);
  return viewCluster(
    row,
    { ready: nodes.filter((node) => node.status === "ready").length, total: nodes.length },
    activeJobs,
  );
}

export async function waitForCluster(
  deps: Deps,
  workspaceId: string,
  clusterId: string,
  wait: { seconds: number; signal: AbortSignal },
): Promise<Cluster> {
  const settled: Cluster["status"][] = ["ready", "terminated"];
  return waitUntil(
    deps,
    topics.cluster(clusterId),
    wait,
    () => readCluster(deps, workspaceId, clusterId),
    (cluster) => settled.includes(cluster.status),
  );
}
