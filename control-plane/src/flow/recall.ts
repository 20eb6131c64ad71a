import type { TaskTimes } from "@frazil/contracts";
import { type GivenRun, isAheadLate, splitAhead } from "../domain/ahead.ts";
import { attemptOf, CLAIM_KEY, type HeldRun, type LinkState } from "./links.ts";

const ATTEMPTS_PER_MESSAGE_MAX = 500;

export function givenRuns(times: TaskTimes, held: ReadonlyMap<string, HeldRun>) {
  const now = performance.now();
  return [...new Set(held.values())].map((run): GivenRun & { run: HeldRun } => ({
    run,
    slots: run.slots,
    ageMs: now - run.heldSinceMs,
    taskMs: times.usualMs(run.jobId),
  }));
}

/** The node gives back what it has not begun; what it has begun it keeps, so that no work is lost. */
export function recallLate(times: TaskTimes, { link, held }: LinkState, patienceMs: number): void {
  const given = givenRuns(times, held);
  if (!isAheadLate(given, link.slots, patienceMs)) return;
  const late = new Set(splitAhead(given, link.slots).ahead.flatMap(({ run }) => (run.recalled ? [] : [run])));
  for (const run of late) run.recalled = true;
  const attempts = [...held].flatMap(([key, run]) => (late.has(run) && key !== CLAIM_KEY ? [attemptOf(key)] : []));
  for (let at = 0; at < attempts.length; at += ATTEMPTS_PER_MESSAGE_MAX)
    link.send({ type: "recall", tasks: attempts.slice(at, at + ATTEMPTS_PER_MESSAGE_MAX) });
}
