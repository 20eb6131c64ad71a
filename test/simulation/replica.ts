import { LEASE_TTL_MS } from "@frazil/contracts";
import { pino } from "pino";
import type { Changes } from "../../control-plane/src/db/changes.ts";
import type { ConnectedNode, Deps } from "../../control-plane/src/flow/deps.ts";
import type { NodeDeps } from "../../control-plane/src/flow/node-messages.ts";
import type { StepName } from "../../control-plane/src/flow/steps.ts";
import type { SimCloud } from "./cloud.ts";
import type { World } from "./database.ts";
import type { Product } from "./product.ts";
import type { Process, Scheduler } from "./scheduler.ts";
import type { Wire } from "./wire.ts";

/** One control plane: what it has in memory is made by the product's own code, and gone when it is killed. */
export interface Replica {
  readonly process: Process;
  readonly deps: NodeDeps;
  /** Someone else's change was announced. */
  hear(topic: string): void;
  runStep(step: StepName, id: string): Promise<void>;
  admit(token: string): Promise<ConnectedNode | undefined>;
  /** Serves a connection that was admitted, until it closes. */
  serve(node: ConnectedNode, wire: Wire): void;
}

export interface Surroundings {
  readonly scheduler: Scheduler;
  readonly world: World;
  readonly product: Product;
  readonly cloud: SimCloud;
  readonly key: Buffer;
  /** Tells the other replicas, or not. */
  announce(from: Process, topic: string): void;
  send(from: Process, step: StepName, id: string): void;
  /** A line of the log at level error. */
  complain(from: Process, line: string): void;
}

const ERROR_LEVEL = 50;

export function startReplica(around: Surroundings, process: Process): Replica {
  const { product, scheduler } = around;
  const pool = around.world.poolFor(process);
  const { db } = product.db;
  const sealer = product.seal.makeSealer(around.key);
  const { changes, hear } = openChanges(around, process);
  const log = pino({ level: "error" }, { write: (line: string) => noteLog(around, process, line) });
  const base = {
    pool,
    db,
    changes,
    sealer,
    templates: product.templates.openTemplates({ pool, db, sealer }),
    clouds: new Map([[around.cloud.name, around.cloud.seenBy(process)]]),
    queue: { send: (step: StepName, id: string) => around.send(process, step, id) },
    endings: product.endings.makeEndings(),
    settings: { leaseTtlMs: LEASE_TTL_MS, bodyIdleMs: 60_000, address: "http://sim", cacheDir: "/cache" },
    log,
  };
  const dispatcher = product.dispatch.makeDispatcher(base);
  const flow: Deps = { ...base, dispatcher };
  const deps: NodeDeps = {
    ...flow,
    recorder: product.record.makeRecorder(flow),
    heard: product.messages.makeHeard(flow),
  };
  changes.onAny(dispatcher.hear);
  const replica: Replica = {
    process,
    deps,
    hear,
    runStep: (step, id) => product.steps.runStep(deps, step, id),
    admit: (token) => db.clusters.findNodeByToken(pool, product.tokens.hashToken(token)),
    serve: (node, wire) => serve(around, replica, node, wire),
  };
  scheduler.inside(process, () => product.reconcile.startReconciler(deps));
  return replica;
}

function noteLog(around: Surroundings, process: Process, line: string): void {
  const entry = JSON.parse(line) as { level: number; msg: string; err?: { message: string; stack: string } };
  if (entry.level >= ERROR_LEVEL) around.complain(process, `${entry.msg}: ${entry.err?.message ?? ""}`);
}

function openChanges(around: Surroundings, process: Process): { changes: Changes; hear(topic: string): void } {
  const listeners: ((topic: string) => void)[] = [];
  const startedMs = around.scheduler.nowMs();
  const hear = (topic: string) => {
    for (const listener of listeners) listener(topic);
  };
  const changes: Changes = {
    notify(topic) {
      hear(topic);
      around.announce(process, topic);
    },
    onAny: (listener) => void listeners.push(listener),
    // Only long polls and event streams wait and listen.
    next: () => Promise.reject(new Error("nobody waits in the simulation")),
    listen: () => () => undefined,
    isLive: () => true,
    onGap: () => () => undefined,
    isStalled: () => false,
    onStall: () => () => undefined,
    healthyForMs: () => around.scheduler.nowMs() - startedMs,
    close: async () => undefined,
  };
  return { changes, hear };
}

/** As `http/agent-socket.ts` does it: messages are handled as they come, without one waiting for another. */
function serve(around: Surroundings, replica: Replica, node: ConnectedNode, wire: Wire): void {
  const { deps } = replica;
  const link = {
    nodeId: node.id,
    clusterId: node.cluster_id,
    workspaceId: node.workspace_id,
    shapeHash: around.product.shape.hashShape(node.shape),
    slots: node.shape.cpus,
    send: wire.toNode,
  };
  const silence = setTimeout(() => wire.closeFromReplica(), deps.settings.leaseTtlMs);
  wire.onClosedAtReplica = () => {
    clearTimeout(silence);
    deps.dispatcher.disconnect(link);
  };
  wire.onMessageAtReplica = (message) => {
    silence.refresh();
    around.product.messages.answerNode(deps, node, link, message).catch((error: Error) => {
      around.complain(replica.process, `could not handle ${message.type}: ${error.message}`);
      wire.closeFromReplica();
    });
  };
}
