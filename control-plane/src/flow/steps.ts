import type { Deps } from "./deps.ts";
import { place, provision, stopIdle, supervise, tearDown } from "./place.ts";
import { expire, finish, stopJob } from "./settle.ts";
import { sweep } from "./sweep.ts";

/** What one look for due rows takes; the rest is found at the next. */
const FOUND_MAX = 200;

export interface Step {
  /** Ids of what is due for this step. The reconciler asks now and then; a message on the queue only brings it forward. */
  readonly find: (deps: Deps) => Promise<string[]>;
  /** Loads, decides, applies under a guard: repeating it, or running it for something that is past it, does nothing. */
  readonly run: (deps: Deps, id: string) => Promise<unknown>;
  readonly timeoutMs: number;
  readonly everyMs: number;
}

/** The way of a job and of a cluster, but for what runs at once in a request or a node's message (submit, lease, record). */
export const STEPS = {
  place: {
    find: (deps) => deps.db.jobs.findUnplaced(deps.pool, FOUND_MAX),
    run: place,
    timeoutMs: 10_000,
    everyMs: 2_000,
  },
  provision: {
    find: (deps) => deps.db.clusters.findDueClusters(deps.pool, ["requested"], FOUND_MAX),
    run: provision,
    timeoutMs: 60_000,
    everyMs: 2_000,
  },
  supervise: {
    find: (deps) => deps.db.clusters.findDueClusters(deps.pool, ["starting", "ready"], FOUND_MAX),
    run: supervise,
    timeoutMs: 60_000,
    everyMs: 1_000,
  },
  stop_idle: {
    find: (deps) => deps.db.clusters.findIdleClusters(deps.pool, FOUND_MAX),
    run: stopIdle,
    timeoutMs: 10_000,
    everyMs: 2_000,
  },
  stop: {
    find: async (deps) => [
      ...(await deps.db.clusters.findDueClusters(deps.pool, ["stopping"], FOUND_MAX)),
      ...(await deps.db.clusters.findDeserted(deps.pool, FOUND_MAX)),
    ],
    run: tearDown,
    timeoutMs: 60_000,
    everyMs: 1_000,
  },
  expire: { find: async () => ["leases"], run: expire, timeoutMs: 30_000, everyMs: 1_000 },
  finish: {
    find: (deps) => deps.db.jobs.findUnfinished(deps.pool, FOUND_MAX),
    run: finish,
    timeoutMs: 30_000,
    everyMs: 5_000,
  },
  sweep: {
    find: (deps) => deps.db.sweeps.findSweepable(deps.pool, FOUND_MAX),
    run: sweep,
    timeoutMs: 10_000,
    everyMs: 1_000,
  },
  stop_job: {
    find: (deps) => deps.db.jobs.findStopping(deps.pool, FOUND_MAX),
    run: stopJob,
    timeoutMs: 60_000,
    everyMs: 2_000,
  },
  dispatch: {
    find: (deps) => deps.db.jobTasks.findClustersWithOpenTasks(deps.pool),
    run: async (deps, clusterId) => deps.dispatcher.wake(clusterId),
    timeoutMs: 10_000,
    everyMs: 500,
  },
} as const satisfies Record<string, Step>;

export type StepName = keyof typeof STEPS;

/** Runs one step for one id, bounded in time. Throws when it fails: the queue or the reconciler tries again. */
export async function runStep(deps: Deps, name: StepName, id: string): Promise<void> {
  const step: Step = STEPS[name];
  const startedAt = performance.now();
  let timer: NodeJS.Timeout | undefined;
  const overdue = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`step ${name} took over ${step.timeoutMs} ms`)), step.timeoutMs);
  });
  try {
    await Promise.race([step.run(deps, id), overdue]);
    deps.log.debug({ step: name, id, ms: Math.round(performance.now() - startedAt) }, "step");
  } finally {
    clearTimeout(timer);
  }
}
