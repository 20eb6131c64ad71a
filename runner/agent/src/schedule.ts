import { attemptKey, chooseNext } from "./lease-queue.ts";
import type { Node } from "./node.ts";
import { type ActiveRun, carryOut, openTasks, type TaskState } from "./run-task.ts";
import { chooseTogether, joinRuns, splitOff } from "./together.ts";

/** Engines are started in advance only when the node has had nothing to do for this long. */
const PREWARM_AFTER_MS = 500;

/** Starts waiting runs while slots are free. Called whenever either may have changed. */
export function schedule(node: Node): void {
  for (;;) {
    const next = chooseNext(node.waiting, node.size.slots - node.busySlots);
    if (next === undefined) break;
    const usualMs = node.runDeps.times.usualMs(next.template.jobId);
    const together = chooseTogether(next, node.waiting, usualMs, node.size.slots);
    for (const run of together) node.waiting.delete(run);
    begin(node, hold(node, joinRuns(together)));
  }
  let ahead = 0;
  for (const run of node.waiting) {
    if (ahead++ >= node.size.slots) break;
    const [leased] = run.leased;
    if (leased.publish === null) node.runDeps.plans.prefetch(leased);
  }
  if (node.running.size === 0 && node.waiting.size === 0) prewarmSoon(node);
}

/** Whoever looks for one of its attempts finds this run. */
function hold(node: Node, run: ActiveRun): ActiveRun {
  for (const task of openTasks(run)) node.held.set(attemptKey(task.ref), { run, task });
  return run;
}

function begin(node: Node, run: ActiveRun): void {
  node.running.add(run);
  node.busySlots += run.slots;
  void carryOut(node.runDeps, run).then((again) => {
    node.running.delete(run);
    node.busySlots -= run.slots;
    waitAgain(node, run, again);
    schedule(node);
  });
}

/** Queries whose turn did not come are the next ones, each by itself. */
function waitAgain(node: Node, run: ActiveRun, again: readonly TaskState[]): void {
  if (again.length === 0) return;
  const later = [...node.waiting];
  node.waiting.clear();
  for (const task of again) node.waiting.add(hold(node, splitOff(run, task)));
  for (const other of later) node.waiting.add(other);
}

/** Takes out waiting runs of which no task is wanted any more. */
export function dropAnswered(node: Node, run: ActiveRun): void {
  if (openTasks(run).length > 0) return;
  node.waiting.delete(run);
  schedule(node);
}

const prewarming = new WeakSet<Node>();

export function prewarmSoon(node: Node): void {
  if (prewarming.has(node) || node.draining || !node.runDeps.engines.wantsPristine()) return;
  prewarming.add(node);
  setTimeout(() => {
    prewarming.delete(node);
    if (node.running.size === 0 && node.waiting.size === 0 && !node.draining) node.runDeps.engines.prewarm();
  }, PREWARM_AFTER_MS).unref();
}
