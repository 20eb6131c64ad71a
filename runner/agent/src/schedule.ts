import { chooseNext } from "./lease-queue.ts";
import type { Node } from "./node.ts";
import { type ActiveRun, carryOut, openTasks } from "./run-task.ts";

/** Engines are started in advance only when the node has had nothing to do for this long. */
const PREWARM_AFTER_MS = 500;

/** Starts waiting runs while slots are free. Called whenever either may have changed. */
export function schedule(node: Node): void {
  for (;;) {
    const next = chooseNext(node.waiting, node.size.slots - node.busySlots);
    if (next === undefined) break;
    node.waiting.delete(next);
    begin(node, next);
  }
  let ahead = 0;
  for (const run of node.waiting) {
    if (ahead++ >= node.size.slots) break;
    if (run.run.publish === null) node.runDeps.plans.prefetch(run.run);
  }
  if (node.running.size === 0 && node.waiting.size === 0) prewarmSoon(node);
}

function begin(node: Node, run: ActiveRun): void {
  node.running.add(run);
  node.busySlots += run.slots;
  void carryOut(node.runDeps, run).finally(() => {
    node.running.delete(run);
    node.busySlots -= run.slots;
    schedule(node);
  });
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
