import type { AttemptRef, LeaseBatch, Run, RunTemplate } from "@frazil/contracts";
import { backoffMs } from "./backoff.ts";
import { RefusedError } from "./control-plane-api.ts";
import type { EngineOrder } from "./engine-choice.ts";
import { hashVariables } from "./engine-variables.ts";
import type { EngineEnvironment } from "./environments.ts";
import { attemptKey, memoryShareBytes, slotsOf } from "./lease-queue.ts";
import type { Node } from "./node.ts";
import { failed, outcomeOfFailedStart } from "./outcomes.ts";
import { choosePython } from "./pythons.ts";
import { type ActiveRun, answerOpenTasks, openTasks, type TaskState } from "./run-task.ts";
import { schedule } from "./schedule.ts";

/** A lease that comes while the node drains is given back after this: at once, and it would come right back. */
const DRAIN_REFUSE_MS = 1_000;
const FETCH_TRIES_MAX = 5;
const FETCH_RETRY_BASE_MS = 100;
const FETCH_RETRY_CAP_MS = 2_000;

/** Takes on what was leased to this node. A lease that it holds already is not taken twice. */
export function takeOn(node: Node, batch: LeaseBatch): void {
  for (const leased of batch.runs) {
    const run = newRun(node, batch.template, leased);
    if (run.tasks.size === 0) continue;
    for (const task of run.tasks.values()) node.held.set(attemptKey(task.ref), { run, task });
    if (node.draining) refuseLater(node, run);
    else prepare(node, run);
  }
  schedule(node);
}

function newRun(node: Node, template: RunTemplate, run: Run): ActiveRun {
  const slots = slotsOf(run.slots, node.size.slots);
  const tasks = new Map<string, TaskState>();
  for (const ref of run.tasks) {
    if (node.held.has(attemptKey(ref)) || node.runDeps.outbox.has(ref)) continue;
    tasks.set(ref.taskId, { ref, status: "open", heard: false, logOpen: true });
  }
  return {
    template,
    leased: [run],
    slots,
    shareBytes: memoryShareBytes(node.size.memoryMiB, slots, node.size.slots),
    tasks,
    order: undefined,
    ready: false,
    engine: undefined,
    openedPython: false,
    stopped: undefined,
  };
}

function refuseLater(node: Node, run: ActiveRun): void {
  node.waiting.add(run);
  setTimeout(() => {
    node.waiting.delete(run);
    answerOpenTasks(node.runDeps, run, { kind: "released" });
  }, DRAIN_REFUSE_MS);
}

/** Finds or makes the environment that the run needs; it takes no slot meanwhile. */
function prepare(node: Node, run: ActiveRun): void {
  const { template } = run;
  const needsPython = template.hasPython && run.leased[0].publish === null;
  const choice = choosePython(node.pythons, template.python, needsPython);
  if (choice.kind === "unsupported") {
    const error = { code: "unsupported_python", message: choice.message, hint: choice.hint } as const;
    answerOpenTasks(node.runDeps, run, failed(error, false));
    return;
  }
  node.waiting.add(run);
  const spec = { python: choice.python, polars: template.polars, packages: template.packages };
  const environment = node.environments.prepare(spec, (phase) => {
    for (const task of openTasks(run)) node.runDeps.progress.tell(task.ref, phase);
  });
  if (environment instanceof Promise) void awaitEnvironment(node, run, environment);
  else makeReady(run, environment);
}

function makeReady(run: ActiveRun, environment: EngineEnvironment): void {
  run.order = engineOrder(run.template, environment, run.slots);
  run.ready = true;
}

export function engineOrder(template: RunTemplate, environment: EngineEnvironment, threads: number): EngineOrder {
  return {
    environment,
    environmentKey: environment.key,
    threads,
    variables: template.env,
    variablesHash: hashVariables(template.env),
    workspaceId: template.workspaceId,
    user: template.user,
  };
}

async function awaitEnvironment(node: Node, run: ActiveRun, environment: Promise<EngineEnvironment>): Promise<void> {
  try {
    makeReady(run, await environment);
  } catch (error) {
    node.waiting.delete(run);
    answerOpenTasks(node.runDeps, run, outcomeOfFailedStart(error));
  }
  schedule(node);
}

/** Gets the content of leases that were too large for a message, and takes them on. */
export async function fetchLeases(node: Node, refs: readonly AttemptRef[]): Promise<void> {
  const wanted = refs.filter((ref) => !node.held.has(attemptKey(ref)) && !node.runDeps.outbox.has(ref));
  for (const ref of wanted) node.fetching.set(attemptKey(ref), ref);
  try {
    const batches = await fetchWithRetries(node, wanted);
    for (const batch of batches) takeOn(node, stillWanted(node, batch));
  } catch (error) {
    node.log.warn({ tasks: wanted.length, error: (error as Error).message }, "leases could not be fetched");
    for (const ref of wanted.filter((ref) => node.fetching.has(attemptKey(ref)))) {
      node.runDeps.outbox.finished({
        type: "finished",
        ...ref,
        outcome: { kind: "released" },
        usage: null,
        openedPython: false,
      });
    }
  } finally {
    for (const ref of wanted) node.fetching.delete(attemptKey(ref));
  }
}

/** Without what was cancelled while it was fetched. */
function stillWanted(node: Node, batch: LeaseBatch): LeaseBatch {
  const runs = batch.runs.map((run) => ({
    ...run,
    tasks: run.tasks.filter((ref) => node.fetching.has(attemptKey(ref))),
  }));
  return { ...batch, runs };
}

async function fetchWithRetries(node: Node, refs: readonly AttemptRef[]): Promise<LeaseBatch[]> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await node.api.fetchLeases(refs);
    } catch (error) {
      if (tries >= FETCH_TRIES_MAX || (error instanceof RefusedError && error.final)) throw error;
      await new Promise((resolve) => setTimeout(resolve, backoffMs(tries, FETCH_RETRY_BASE_MS, FETCH_RETRY_CAP_MS)));
    }
  }
}
