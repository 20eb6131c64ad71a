import type { AttemptRef, ToNode } from "@frazil/contracts";
import { drain } from "./drain.ts";
import { fetchLeases, takeOn } from "./intake.ts";
import { attemptKey } from "./lease-queue.ts";
import type { Node } from "./node.ts";
import { answerOpenTasks, publish, tellStarted, withdrawAndTell, withdrawSilently } from "./run-task.ts";
import { dropAnswered, prewarmSoon, schedule } from "./schedule.ts";
import { sweepLater } from "./sweeps.ts";

/** What each message of the control plane makes the node do. */
export function receive(node: Node, message: ToNode): void {
  switch (message.type) {
    case "welcome":
      onWelcome(node, message.slots, message.memoryMiB);
      break;
    case "lease":
      takeOn(node, message.batch);
      break;
    case "lease_by_reference":
      void fetchLeases(node, message.tasks);
      break;
    case "publish":
      onPublish(node, message);
      break;
    case "abandon":
      letGo(node, message);
      break;
    case "recorded":
      if (!message.accepted) node.log.info({ task: message.taskId, attempt: message.attempt }, "late outcome refused");
      node.runDeps.outbox.settle(message);
      break;
    case "cancel":
      for (const ref of message.tasks) cancel(node, ref);
      break;
    case "recall":
      for (const ref of message.tasks) giveBack(node, ref);
      break;
    case "beat":
      for (const ref of message.lost) if (!awaitsFence(node, ref)) letGo(node, ref);
      break;
    case "sweep":
      sweepLater(node, message);
      break;
    case "drain":
      drain(node);
      break;
  }
}

function onWelcome(node: Node, slots: number, memoryMiB: number): void {
  node.size.slots = slots;
  node.size.memoryMiB = memoryMiB;
  node.runDeps.outbox.resendAll();
  for (const run of node.running) if (run.engine !== undefined) tellStarted(node.runDeps, run);
  if (!node.welcomed) {
    node.welcomed = true;
    node.log.info({ slots, memoryMiB }, "node is connected");
    void prewarmLastUsed(node);
  }
  schedule(node);
}

/** A new node begins with an engine of the environment that this machine used last: most likely the first job's. */
async function prewarmLastUsed(node: Node): Promise<void> {
  const environment = await node.environments.findLastUsed();
  if (environment === undefined || node.draining) return;
  node.runDeps.engines.remember(environment, node.size.slots);
  if (node.running.size === 0 && node.waiting.size === 0) node.runDeps.engines.prewarm();
  else prewarmSoon(node);
}

function onPublish(node: Node, ref: AttemptRef): void {
  node.runDeps.outbox.settle(ref, "staged");
  const held = node.held.get(attemptKey(ref));
  if (held !== undefined) publish(held.run, held.task);
}

/** Its output may have been fenced, and then another attempt needs it: only the answer to `staged`, which is asked for until it comes, tells. */
function awaitsFence(node: Node, ref: AttemptRef): boolean {
  return node.held.get(attemptKey(ref))?.task.status === "staged";
}

/** The control plane waits to hear that the attempt has stopped. */
function cancel(node: Node, ref: AttemptRef): void {
  if (awaitsFence(node, ref)) return;
  const held = node.held.get(attemptKey(ref));
  if (held !== undefined) {
    withdrawAndTell(node.runDeps, held.run, held.task);
    dropAnswered(node, held.run);
    return;
  }
  node.fetching.delete(attemptKey(ref));
  // An outcome that is on its way is answer enough.
  if (node.runDeps.outbox.has(ref)) return;
  const { taskId, attempt } = ref;
  const outcome = { kind: "released" } as const;
  node.runDeps.outbox.finished({ type: "finished", taskId, attempt, outcome, usage: null, openedPython: false });
}

/** What waits for a slot could be done elsewhere, or later. What has begun goes on. */
function giveBack(node: Node, ref: AttemptRef): void {
  const run = node.held.get(attemptKey(ref))?.run;
  if (run === undefined || !node.waiting.delete(run)) return;
  answerOpenTasks(node.runDeps, run, { kind: "returned" });
  schedule(node);
}

/** The attempt is not this node's any more: nobody waits for a word about it. */
function letGo(node: Node, ref: AttemptRef): void {
  const held = node.held.get(attemptKey(ref));
  node.fetching.delete(attemptKey(ref));
  node.runDeps.outbox.settle(ref);
  if (held === undefined) return;
  withdrawSilently(node.runDeps, held.run, held.task);
  dropAnswered(node, held.run);
}
