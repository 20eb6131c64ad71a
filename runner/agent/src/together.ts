import { QUERIES_PER_RUN_MAX, type Run } from "@frazil/contracts";
import type { ActiveRun, TaskState } from "./run-task.ts";

/** Work that goes to an engine in one go: what waits behind it waits so much longer at most, if its tasks take what they usually take. */
const TOGETHER_MS = 50;
const TASK_MS_MIN = 0.25;

/**
 * Waiting runs that go to an engine together with the first of them: short queries of the same job and kind of plan, in order. Those with Python go alone,
 * because what they print, break or leave behind must be theirs; so do those with a destination, which wait for the control plane in between.
 */
export function chooseTogether(
  first: ActiveRun,
  waiting: Iterable<ActiveRun>,
  usualMs: number | undefined,
  slots: number,
): ActiveRun[] {
  if (usualMs === undefined || !canShare(first)) return [first];
  const alike: ActiveRun[] = [];
  for (const run of waiting) {
    if (run.ready && isAlike(run, first) && canShare(run)) alike.push(run);
    if (alike.length >= QUERIES_PER_RUN_MAX * slots) break;
  }
  const share = Math.ceil(alike.length / slots);
  const fitting = Math.floor(TOGETHER_MS / Math.max(usualMs, TASK_MS_MIN));
  return alike.slice(0, Math.max(1, Math.min(share, fitting, QUERIES_PER_RUN_MAX)));
}

/** One message says for all of its plans what they are. */
function isAlike(run: ActiveRun, first: ActiveRun): boolean {
  return run.template.jobId === first.template.jobId && run.leased[0].planKind === first.leased[0].planKind;
}

function canShare(run: ActiveRun): boolean {
  const { template, leased } = run;
  if (template.hasPython || template.output.destination !== null) return false;
  const [first] = leased;
  // A plan that came with its lease is small: many of them fit in memory, and into a message.
  return (
    leased.length === 1 &&
    first.kind === "query" &&
    first.publish === null &&
    first.plan !== null &&
    run.tasks.size === 1
  );
}

/** One run of several that wait, the first of which sets the terms. */
export function joinRuns(runs: readonly ActiveRun[]): ActiveRun {
  const [first] = runs as [ActiveRun];
  if (runs.length === 1) return first;
  return {
    ...first,
    leased: runs.map((run) => run.leased[0]) as [Run, ...Run[]],
    tasks: new Map(runs.flatMap((run) => [...run.tasks])),
  };
}

/** A run of its own for a task of a joined one. */
export function splitOff(run: ActiveRun, task: TaskState): ActiveRun {
  const leased = run.leased.find((one) => one.tasks[0]?.taskId === task.ref.taskId) as Run;
  const fresh: TaskState = { ref: task.ref, status: "open", heard: false, logOpen: true };
  return {
    ...run,
    leased: [leased],
    tasks: new Map([[task.ref.taskId, fresh]]),
    engine: undefined,
    openedPython: false,
    stopped: undefined,
  };
}
