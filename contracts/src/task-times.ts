/** Weight of the newest task in the usual time of a job's tasks. */
const NEWEST_WEIGHT = 0.2;
const JOBS_KEPT_MAX = 1_000;

/** How long tasks of a job usually take: what a control plane sends ahead by, and what lets short ones go to an engine together. */
export interface TaskTimes {
  learn(jobId: string, ms: number): void;
  usualMs(jobId: string): number | undefined;
}

export function makeTaskTimes(): TaskTimes {
  const usual = new Map<string, number>();
  return {
    learn(jobId, ms) {
      const before = usual.get(jobId);
      // Last used, last dropped.
      usual.delete(jobId);
      usual.set(jobId, before === undefined ? ms : before + NEWEST_WEIGHT * (ms - before));
      if (usual.size > JOBS_KEPT_MAX) usual.delete(usual.keys().next().value as string);
    },
    usualMs: (jobId) => usual.get(jobId),
  };
}
