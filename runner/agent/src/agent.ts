import { type FromNode, makeTaskTimes } from "@frazil/contracts";
import { type ConnectionEnd, openConnection } from "./connection.ts";
import { closeNode, drain, untilDrained } from "./drain.ts";
import type { Owner } from "./engine-files.ts";
import { createEngines } from "./engines.ts";
import { attemptKey } from "./lease-queue.ts";
import { createLogs } from "./logs.ts";
import { holding, type Node } from "./node.ts";
import { createOutbox } from "./outbox.ts";
import { outcomeOfRefusal } from "./outcomes.ts";
import { createPlans } from "./plans.ts";
import { createProgress } from "./progress.ts";
import { receive } from "./receive.ts";
import type { FinishedMessage, Spool } from "./spool.ts";
import { createSupervisor } from "./supervisor.ts";

export interface AgentDeps extends Pick<Node, "config" | "log" | "api" | "environments" | "pythons"> {
  readonly nodeToken: string;
  readonly owner: Owner | undefined;
  readonly spool: Spool;
  /** Outcomes that an earlier agent of this node could not deliver. */
  readonly found: readonly FinishedMessage[];
}

export type AgentEnd = "drained" | ConnectionEnd;

export interface Agent {
  /** When everything that the agent started has ended. */
  readonly ended: Promise<AgentEnd>;
  drain(): void;
  /** Ends engines at once: for the last moments of the process. */
  killAll(): void;
}

/** Connects, and serves leases until the node is drained, refused or abandoned. */
export function startAgent(deps: AgentDeps): Agent {
  const { config, log, api } = deps;
  const size = { slots: 1, memoryMiB: 1024 };
  const ending = Promise.withResolvers<ConnectionEnd | "draining">();
  const send = (message: FromNode) => node.connection.send(message);
  const engines = createEngines({ config, log, size, owner: deps.owner });
  const supervisor = createSupervisor();
  const node: Node = {
    ...deps,
    size,
    runDeps: {
      engines,
      supervisor,
      plans: createPlans(api.fetchPlan),
      outbox: createOutbox({ send, spool: deps.spool, log }, deps.found),
      logs: createLogs({ send: api.sendLogs, log }),
      progress: createProgress(send),
      times: makeTaskTimes(),
      environments: deps.environments,
      dropAttempt: (ref) => void node.held.delete(attemptKey(ref)),
    },
    connection: openConnection({
      address: config.address,
      nodeToken: deps.nodeToken,
      api,
      log,
      heartbeatIntervalMs: config.heartbeatIntervalMs,
      abandonedAfterMs: config.abandonedAfterMs,
      holding: () => holding(node),
      heartbeat: () => heartbeat(node),
      onMessage: (message) => receive(node, message),
      onRefused(message, error) {
        if (message.type === "finished") node.runDeps.outbox.replace({ ...message, outcome: outcomeOfRefusal(error) });
      },
      onEnd: ending.resolve,
    }),
    held: new Map(),
    fetching: new Map(),
    waiting: new Set(),
    running: new Set(),
    sweeps: new Map(),
    busySlots: 0,
    welcomed: false,
    draining: false,
    measuredAt: performance.now(),
    onDrain: () => ending.resolve("draining"),
  };
  return { ended: untilEnded(node, ending.promise), drain: () => drain(node), killAll: engines.killAll };
}

async function untilEnded(node: Node, ending: Promise<ConnectionEnd | "draining">): Promise<AgentEnd> {
  const end = await ending;
  if (end === "draining") await untilDrained(node);
  await closeNode(node);
  return end === "draining" ? "drained" : end;
}

function heartbeat(node: Node): FromNode {
  const now = performance.now();
  const { cpuMs, memoryBytes } = node.runDeps.supervisor.measure(node.runDeps.engines.list());
  const wallMs = Math.max(1, now - node.measuredAt);
  node.measuredAt = now;
  // Of all the node's cores together.
  const cpuPercent = Math.min(100, (100 * cpuMs) / wallMs / node.size.slots);
  return {
    type: "heartbeat",
    holding: holding(node),
    cpuPercent,
    memoryBytes: memoryBytes + process.memoryUsage.rss(),
  };
}
