import type { AttemptRef, FromNode } from "@frazil/contracts";
import { NODE_ENV } from "@frazil/contracts";
import type { StepName } from "../../control-plane/src/flow/steps.ts";
import { makeSimCloud, type SimCloud } from "./cloud.ts";
import { openWorld, type SimulationDatabase, type World } from "./database.ts";
import { type NodeSurroundings, type SimNode, startNode, type Witness } from "./node.ts";
import type { Product } from "./product.ts";
import { type Replica, type Surroundings, startReplica } from "./replica.ts";
import { makeScheduler, type Process, type Scheduler } from "./scheduler.ts";
import { openWire } from "./wire.ts";

const REPLICAS = 2;
const QUEUE_TRIES_MAX = 3;
export const WORKSPACE = "ws_00000000000000000000000001";
const KEY = Buffer.alloc(32, 7);

/** What happened where only the simulation could see it. */
export interface Sightings {
  /** task id -> manifests of which output became visible. */
  readonly published: Map<string, Set<string>>;
  /** "task#attempt" -> the number that its result carried. */
  readonly rows: Map<string, number>;
  /** "task#attempt" of which the control plane said that it is recorded. */
  readonly accepted: Set<string>;
  /** Errors in the log, with when. */
  readonly errors: string[];
}

/** One installation: replicas, their queue, nodes, a cloud, a database. */
export interface Installation {
  readonly scheduler: Scheduler;
  readonly world: World;
  readonly product: Product;
  readonly cloud: SimCloud;
  readonly replicas: Replica[];
  readonly nodes: Map<string, SimNode>;
  readonly sightings: Sightings;
  /** How the queue and the announcements behave. */
  readonly weather: { lossy: boolean };
  /** Kills a replica and starts it again with nothing but the database. */
  restartReplica(index: number): void;
  /** Runs a request against some replica, as a client does: undefined when the answer got lost. */
  request<T>(work: (replica: Replica) => Promise<T>): Promise<{ value: T } | { error: Error } | undefined>;
  wipeQueue(): number;
  close(): Promise<void>;
}

export async function openInstallation(
  database: SimulationDatabase,
  product: Product,
  seed: number,
  startMs: number,
): Promise<Installation> {
  const scheduler = makeScheduler(seed, startMs);
  const world = await openWorld(database, scheduler);
  const cloud = makeSimCloud(scheduler);
  const sightings: Sightings = { published: new Map(), rows: new Map(), accepted: new Set(), errors: [] };
  const weather = { lossy: true };
  const replicas: Replica[] = [];
  const nodes = new Map<string, SimNode>();
  const around: Surroundings = {
    scheduler,
    world,
    product,
    cloud,
    key: KEY,
    announce: (from, topic) => announce(installation, from, topic),
    send: (from, step, id) => send(installation, from, step, id),
    complain(from, line) {
      scheduler.note(`${from.name}: ERROR ${line}`);
      sightings.errors.push(line);
    },
  };
  const start = (index: number) => {
    replicas[index] = startReplica(around, scheduler.spawn(`plane${index}`));
  };
  const installation: Installation = {
    scheduler,
    world,
    product,
    cloud,
    replicas,
    nodes,
    sightings,
    weather,
    restartReplica(index) {
      scheduler.kill((replicas[index] as Replica).process);
      start(index);
    },
    request: (work) => request(installation, work),
    wipeQueue: () => scheduler.drop((label) => label.startsWith(QUEUE)),
    close: () => world.close(),
  };
  scheduler.afterStep = () => world.settleWaiters();
  cloud.onMade = (order) => {
    const process = scheduler.spawn(`node${nodes.size}`);
    const node = startNode(
      nodeSurroundings(installation, order.nodeId),
      process,
      order.nodeId,
      order.environment[NODE_ENV.joinToken] as string,
    );
    nodes.set(order.nodeId, node);
  };
  cloud.onDrain = (nodeId) => nodes.get(nodeId)?.drain();
  cloud.onGone = (nodeId) => scheduler.kill((nodes.get(nodeId) as SimNode).process);
  await world.ask(
    "INSERT INTO workspaces (id, name, default_context, results_location) VALUES ($1, 'sim', $2, '/results')",
    [WORKSPACE, JSON.stringify({ cloud: cloud.name, cpus: 2, memoryGiB: 1 })],
  );
  for (let index = 0; index < REPLICAS; index++) start(index);
  return installation;
}

const QUEUE = "queue ";

/** The queue gives a message to some replica, some time; it may lose or repeat it. What fails comes again a few times. */
function send(installation: Installation, from: Process, step: StepName, id: string): void {
  const { scheduler, weather } = installation;
  const copies = weather.lossy ? scheduler.random.pick([0, 1, 1, 1, 2]) : 1;
  for (let copy = 0; copy < copies; copy++) deliver(installation, step, id, QUEUE_TRIES_MAX);
  if (copies !== 1)
    scheduler.note(`${from.name}: ${step} ${id.slice(-4)} is ${copies === 0 ? "lost" : "repeated"} in the queue`);
}

function deliver(installation: Installation, step: StepName, id: string, tries: number): void {
  const { scheduler } = installation;
  const label = `${QUEUE}${step} ${id.slice(-4)}`;
  const effect = () => {
    const replica = someReplica(installation);
    if (replica === undefined) return { answer: () => undefined };
    const work = () =>
      replica.runStep(step, id).catch(() => {
        if (tries > 1) deliver(installation, step, id, tries - 1);
      });
    return { answer: () => void scheduler.inside(replica.process, work) };
  };
  scheduler.put(outside(installation), label, effect);
}

const outsiders = new WeakMap<Scheduler, Process>();
/** Who is never killed: the queue, the network. */
function outside({ scheduler }: Installation): Process {
  const known = outsiders.get(scheduler) ?? scheduler.spawn("world");
  outsiders.set(scheduler, known);
  return known;
}

function someReplica(installation: Installation): Replica | undefined {
  const up = installation.replicas.filter((replica) => replica.process.isAlive && !replica.process.isFrozen);
  return up.length === 0 ? undefined : installation.scheduler.random.pick(up);
}

function announce(installation: Installation, from: Process, topic: string): void {
  const { scheduler, weather } = installation;
  if (!["room:", "cancel:", "freed:"].some((kind) => topic.startsWith(kind))) return;
  for (const replica of installation.replicas) {
    if (replica.process === from || !replica.process.isAlive) continue;
    if (weather.lossy && scheduler.random.chance(0.2)) continue;
    scheduler.put(replica.process, `hear ${topic.slice(0, 6)}`, () => ({ answer: () => replica.hear(topic) }));
  }
}

async function request<T>(
  installation: Installation,
  work: (replica: Replica) => Promise<T>,
): Promise<{ value: T } | { error: Error } | undefined> {
  const replica = someReplica(installation);
  if (replica === undefined) return undefined;
  return new Promise((resolve) => {
    replica.process.onKill.push(() => resolve(undefined));
    const run = async () => {
      try {
        resolve({ value: await work(replica) });
      } catch (error) {
        resolve({ error: error as Error });
      }
    };
    installation.scheduler.inside(replica.process, () => void run());
  });
}

function nodeSurroundings(installation: Installation, nodeId: string): NodeSurroundings {
  const { scheduler, product, cloud } = installation;
  const back = <T>(process: Process, label: string, value: T) => scheduler.perform(process, label, () => value);
  return {
    scheduler,
    witness: witnessOf(installation),
    async join(process, joinToken) {
      const minted = product.tokens.mintNodeToken("node");
      const facts = { hostname: "sim", pythons: ["3.11"] };
      const answer = await request(installation, ({ deps }) =>
        deps.db.clusters.joinNode(deps.pool, product.tokens.hashToken(joinToken), minted.hash, facts),
      );
      const told = await back(process, "hear of joining", answer);
      if (told === undefined || "error" in told) return undefined;
      return told.value === undefined ? "refused" : { nodeToken: minted.token };
    },
    async connect(process, token) {
      let served: Replica | undefined;
      const answer = await request(installation, (replica) => {
        served = replica;
        return replica.admit(token);
      });
      const told = await back(process, "hear of connecting", answer);
      if (told === undefined || "error" in told || served === undefined) return undefined;
      if (told.value === undefined) return "refused";
      if (!served.process.isAlive) return undefined;
      const wire = openWire(scheduler, process, served.process);
      const { value: node } = told;
      scheduler.inside(served.process, () => served?.serve(node, wire));
      return wire;
    },
    async fetchLeases(process, token, refs) {
      const answer = await request(installation, (replica) => describeTo(replica, token, refs));
      const told = await back(process, "hear of leases", answer);
      return told === undefined || "error" in told ? undefined : told.value;
    },
    async post(process, token, message) {
      const answer = await request(installation, (replica) => takeMessage(product, replica, token, message));
      const told = await back(process, "hear of a large report", answer);
      return told === undefined || "error" in told ? [] : told.value;
    },
    leave: () => cloud.end(nodeId),
  };
}

/** Whichever replica is asked: it need not be the one that the node is connected to. */
async function describeTo(replica: Replica, token: string, refs: readonly AttemptRef[]) {
  const node = await replica.admit(token);
  return node === undefined ? undefined : replica.deps.dispatcher.describe(node, refs);
}

async function takeMessage(product: Product, replica: Replica, token: string, message: FromNode) {
  const node = await replica.admit(token);
  return node === undefined ? [] : product.messages.handleNodeMessage(replica.deps, node, message);
}

function witnessOf({ sightings }: Installation): Witness {
  return {
    published(taskId, manifest) {
      const before = sightings.published.get(taskId) ?? new Set();
      sightings.published.set(taskId, before.add(manifest));
    },
    recorded({ taskId, attempt }, accepted) {
      if (accepted) sightings.accepted.add(`${taskId}#${attempt}`);
    },
    rowsOf({ taskId, attempt }) {
      const key = `${taskId}#${attempt}`;
      const known = sightings.rows.get(key) ?? sightings.rows.size + 1;
      sightings.rows.set(key, known);
      return known;
    },
  };
}
