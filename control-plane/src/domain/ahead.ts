/** What a node was given and has not answered yet, in the order in which it was given. */
export interface GivenRun {
  readonly slots: number;
  readonly ageMs: number;
  /** Usual time of its job's tasks, when known. */
  readonly taskMs: number | undefined;
}

/** Where a node is to become empty soon, what was sent ahead of its slots may still take this long; the rest is taken back. */
export const AHEAD_MS = 150;

/** Splits a node's runs into those that have a slot and those that were sent ahead of one. Nodes begin them in order. */
export function splitAhead<Run extends { readonly slots: number }>(runs: readonly Run[], slots: number) {
  let used = 0;
  const at = runs.findIndex((run) => {
    used += run.slots;
    return used > slots;
  });
  return at === -1 ? { begun: runs, ahead: [] } : { begun: runs.slice(0, at), ahead: runs.slice(at) };
}

/** When a node will have done all that it was given. Of a run whose usual time is unknown or over, as much again is expected as it has taken. */
export function emptyInMs(runs: readonly GivenRun[], slots: number): number {
  const { begun, ahead } = splitAhead(runs, slots);
  return Math.max(0, ...begun.map(leftOf)) + aheadMs(ahead, slots);
}

function leftOf({ ageMs, taskMs }: GivenRun): number {
  return taskMs !== undefined && taskMs > ageMs ? taskMs - ageMs : ageMs;
}

function aheadMs(ahead: readonly GivenRun[], slots: number): number {
  return ahead.reduce((sum, run) => sum + (run.taskMs ?? run.ageMs) * run.slots, 0) / slots;
}

/**
 * Whether what was sent ahead of a node's slots is late: it was to wait for less than AHEAD_MS, and the first of it has waited for longer than `patienceMs`,
 * or all of it is now expected to take longer. The times of a job's tasks may grow at any moment.
 */
export function isAheadLate(runs: readonly GivenRun[], slots: number, patienceMs: number): boolean {
  const { ahead } = splitAhead(runs, slots);
  const [first] = ahead;
  return first !== undefined && (first.ageMs > patienceMs || aheadMs(ahead, slots) > patienceMs);
}
