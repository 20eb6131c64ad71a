import type { ErrorInfo, SweepOrder, ToNode } from "@frazil/contracts";
import type { EngineEnd } from "./engine-process.ts";
import type { Engine } from "./engines.ts";
import { engineOrder } from "./intake.ts";
import { memoryShareBytes } from "./lease-queue.ts";
import type { Node } from "./node.ts";
import { choosePython } from "./pythons.ts";

/** Beyond this an order is not taken on: the control plane gives it again later. */
const SWEEPS_WAITING_MAX = 1_000;
/** One part of one job. */
const SWEEP_WITHIN_MS = 120_000;
/** Runs go first, but not for ever. */
const IDLE_WITHIN_MS = 10_000;
const IDLE_POLL_MS = 100;

type SweepRequest = Extract<ToNode, { type: "sweep" }>;

/** Removes what attempts of an ended job left in storage. One job after the other, and only engines touch storage. */
export function sweepLater(node: Node, { jobId, token }: SweepRequest): void {
  if (node.draining || node.sweeps.size >= SWEEPS_WAITING_MAX) return;
  const isIdle = node.sweeps.size === 0;
  node.sweeps.set(jobId, token);
  if (isIdle) void sweepAll(node);
}

async function sweepAll(node: Node): Promise<void> {
  for (const [jobId, token] of node.sweeps) {
    await untilIdle(node);
    if (!node.draining) {
      const error = await sweepJob(node, jobId).catch(
        (cause: Error): ErrorInfo => ({ code: "unavailable", message: cause.message }),
      );
      if (error !== null) node.log.warn({ job: jobId, error: error.message }, "leftovers not removed");
      node.connection.send({ type: "swept", jobId, token, error });
    }
    node.sweeps.delete(jobId);
  }
}

async function untilIdle(node: Node): Promise<void> {
  const deadline = performance.now() + IDLE_WITHIN_MS;
  while (node.running.size + node.waiting.size > 0 && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, IDLE_POLL_MS));
}

async function sweepJob(node: Node, jobId: string): Promise<ErrorInfo | null> {
  let after: string | null = null;
  do {
    const order: SweepOrder = await node.api.fetchSweep(jobId, after);
    const error = await sweepPart(node, order);
    if (error !== null) return error;
    after = order.next;
  } while (after !== null);
  return null;
}

async function sweepPart(node: Node, order: SweepOrder): Promise<ErrorInfo | null> {
  const { engines } = node.runDeps;
  const { template } = order;
  const choice = choosePython(node.pythons, template.python, false);
  if (choice.kind === "unsupported") return { code: "unsupported_python", message: choice.message };
  const spec = { python: choice.python, polars: template.polars, packages: template.packages };
  const environment = await node.environments.prepare(spec, () => {});
  // Any number of threads will do: an engine that is there is better than another one.
  const idle = [...engines.list()].find(
    (engine) =>
      engine.state === "idle" &&
      engine.environmentKey === environment.key &&
      (engine.workspaceId ?? template.workspaceId) === template.workspaceId,
  );
  const engine = await engines.take(engineOrder(template, environment, idle?.threads ?? 1));
  const error = await converse(node, engine, order);
  engines.giveBack(engine, memoryShareBytes(node.size.memoryMiB, engine.threads, node.size.slots));
  return error;
}

/** From `sweep` to `idle`, or to the end of the engine. */
function converse(node: Node, engine: Engine, order: SweepOrder): Promise<ErrorInfo | null> {
  return new Promise((resolve, reject) => {
    const bound = setTimeout(() => node.runDeps.engines.kill(engine), SWEEP_WITHIN_MS);
    let answer: ErrorInfo | null = null;
    const over = () => {
      clearTimeout(bound);
      resolve(answer);
    };
    engine.process.events = {
      onMessage(message) {
        if (message.type === "swept") answer = message.error;
        if (message.type === "idle") over();
      },
      onOutput() {},
      onEnd(end: EngineEnd) {
        clearTimeout(bound);
        reject(new Error(`the engine ended meanwhile (${end.signal ?? end.exitCode})`));
      },
    };
    const { jobId, output, resultsLocation, cwd } = order.template;
    engine.process.send({ type: "sweep", jobId, attempts: order.attempts, output, resultsLocation, cwd });
  });
}
