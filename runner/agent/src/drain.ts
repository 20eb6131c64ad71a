import type { Node } from "./node.ts";
import { answerOpenTasks, stopRun } from "./run-task.ts";

/** Last words at the end: outcomes and log lines. */
const FAREWELL_WITHIN_MS = 5_000;
const POLL_MS = 20;

/** Takes nothing new and gives back what waits. `untilDrained` tells when the rest is over. */
export function drain(node: Node): void {
  if (node.draining) return;
  node.draining = true;
  node.log.info({ running: node.running.size, waiting: node.waiting.size }, "draining");
  giveBackWaiting(node);
  node.onDrain();
}

function giveBackWaiting(node: Node): void {
  for (const run of node.waiting) answerOpenTasks(node.runDeps, run, { kind: "released" });
  node.waiting.clear();
}

/** Lets running tasks finish within the bound, gives back the others, and waits until the control plane has heard of all. */
export async function untilDrained(node: Node): Promise<void> {
  await until(() => node.running.size === 0, node.config.drainMs);
  await stopAll(node);
  await until(() => node.runDeps.outbox.size() === 0, FAREWELL_WITHIN_MS);
}

/** What can't be delivered any more is kept for the next agent of this node, and no engine is left behind. */
export async function closeNode(node: Node): Promise<void> {
  node.draining = true;
  giveBackWaiting(node);
  await stopAll(node);
  await node.runDeps.engines.close();
  await node.runDeps.logs.drain(node.connection.isUp() ? FAREWELL_WITHIN_MS : 0);
  await node.runDeps.outbox.saveAll();
  node.connection.close();
}

async function stopAll(node: Node): Promise<void> {
  for (const run of node.running) stopRun(node.runDeps, run, { kind: "draining" });
  await until(() => node.running.size === 0 && node.held.size === 0, FAREWELL_WITHIN_MS);
}

async function until(condition: () => boolean, withinMs: number): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!condition() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
}
