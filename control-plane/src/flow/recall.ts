import type { TaskTimes } from "@frazil/contracts";
import { type GivenRun, isAheadLate, splitAhead } from "../domain/ahead.ts";
import type { Deps } from "./deps.ts";
import { attemptOf, CLAIM_KEY, type HeldRun, type LinkState, type Links } from "./links.ts";

const ATTEMPTS_PER_MESSAGE_MAX = 500;
/** Jobs that were cancelled lately: a lease that was being written just then is called back too. */
const CANCELS_KEPT_MAX = 1_000;

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

interface CallingBack {
  readonly deps: Pick<Deps, "db" | "pool">;
  readonly links: Links;
  readonly cancelled: Set<string>;
}

/** Attempts of this job were ended: the nodes stop those that they have. */
export async function callBackEnded({ deps, links, cancelled }: CallingBack, jobId: string): Promise<void> {
  cancelled.add(jobId);
  if (cancelled.size > CANCELS_KEPT_MAX) cancelled.delete(cancelled.keys().next().value as string);
  const held = [...(links.byJob.get(jobId)?.keys() ?? [])].flatMap(({ link, held }) =>
    [...held].flatMap(([key, run]) => (run.jobId === jobId ? [{ ...attemptOf(key), nodeId: link.nodeId }] : [])),
  );
  const ended = await deps.db.leasing.findEnded(deps.pool, held);
  for (const [nodeId, ofNode] of Map.groupBy(ended, (one) => one.nodeId)) {
    const refs = ofNode.map(({ taskId, attempt }) => ({ taskId, attempt }));
    for (let at = 0; at < refs.length; at += ATTEMPTS_PER_MESSAGE_MAX)
      links.byNode.get(nodeId)?.link.send({ type: "cancel", tasks: refs.slice(at, at + ATTEMPTS_PER_MESSAGE_MAX) });
  }
}
