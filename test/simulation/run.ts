import { type Clients, makeClients } from "./clients.ts";
import type { SimulationDatabase } from "./database.ts";
import { type Installation, openInstallation, WORKSPACE } from "./installation.ts";
import { judge, type Move, openPlansWith } from "./oracle.ts";
import type { Product } from "./product.ts";
import type { Replica } from "./replica.ts";
import type { Process } from "./scheduler.ts";

/** The installation and those who use it, with what makes trouble. */
export interface Simulated {
  readonly installation: Installation;
  readonly clients: Clients;
  /** Awaits until the next kill of a replica, if one is planned. */
  readonly plan: { killIn: number | undefined };
  readonly tally: { steps: number; kills: number };
}

export interface Outcome {
  readonly faults: readonly string[];
  readonly trace: readonly string[];
  readonly moves: readonly Move[];
  readonly counts: { readonly jobs: number; readonly tasks: number; readonly attempts: number };
  readonly steps: number;
  /** Replicas that were killed at an await. */
  readonly kills: number;
  readonly statements: number;
  readonly lockWaits: number;
}

const HOUR_MS = 3_600_000;
const FIRST_MS = Date.UTC(2030, 0, 1);
/** Everything must be done so long after the last fault. Lost nodes, leases, boots and pauses between attempts add up. */
const CALM_MS_MAX = 240_000;
/** In the calm the control planes' timers fire only so often, to save statements: a timer may always be late. Well below a lease. */
const ROUND_MS = 4_000;
const CALM_TICK_MS = 400;
/** Part of the runs in which jobs are retried after all have ended. */
const LATE_RETRIES = 0.25;
const STEPS_PER_TICK_MAX = 4_000;

let runs = 0;

/** Runs one scenario from nothing to the calm, and judges it. */
export async function simulate(
  database: SimulationDatabase,
  product: Product,
  seed: number,
  act: (simulated: Simulated) => Promise<void>,
): Promise<Outcome> {
  // Ids are made of time: each run has its own, later than the one before, so that they always grow.
  const installation = await openInstallation(database, product, seed, FIRST_MS + ++runs * HOUR_MS * 4);
  const sealer = product.seal.makeSealer(Buffer.alloc(32, 7));
  openPlansWith((sealed) => sealer.open(sealed, WORKSPACE));
  const clients = makeClients(installation);
  const plan: Simulated["plan"] = { killIn: undefined };
  const simulated = { installation, clients, plan, tally: { steps: 0, kills: 0 } };
  installation.scheduler.trouble = { before: (process) => fateOf(simulated, process) };
  const { scheduler, world } = installation;
  const faults: string[] = [];
  let judged: Awaited<ReturnType<typeof judge>> | undefined;
  try {
    await act(simulated);
    await calmDown(simulated);
    // What was not done is asked for once more, now that it has ended.
    if (scheduler.random.chance(LATE_RETRIES)) {
      for (const asked of clients.all) clients.retry(asked);
      await settle(simulated);
    }
    judged = await judge(installation, clients.all);
  } catch (error) {
    faults.push((error as Error).stack ?? String(error));
  } finally {
    await installation.close();
  }
  return {
    faults: [...faults, ...(judged?.faults ?? []), ...clients.faults],
    trace: scheduler.trace,
    moves: judged?.moves ?? [],
    counts: judged?.counts ?? { jobs: 0, tasks: 0, attempts: 0 },
    ...simulated.tally,
    statements: world.stats.statements,
    lockWaits: world.stats.waits,
  };
}

function fateOf({ installation, plan, tally }: Simulated, process: Process): "go on" | "kill before" | "kill after" {
  if (plan.killIn === undefined || !installation.replicas.some((replica) => replica.process === process))
    return "go on";
  plan.killIn -= 1;
  if (plan.killIn > 0) return "go on";
  plan.killIn = undefined;
  tally.kills += 1;
  return installation.scheduler.random.chance(0.5) ? "kill before" : "kill after";
}

/** Lets things go on for a number of awaits; time passes now and then, and whenever nothing else can happen. */
export async function goOn({ installation, tally }: Simulated, count: number): Promise<void> {
  const { scheduler } = installation;
  for (let at = 0; at < count; at++) {
    tally.steps += 1;
    for (const [index, replica] of installation.replicas.entries())
      if (!replica.process.isAlive && scheduler.random.chance(0.1)) installation.restartReplica(index);
    if (scheduler.random.chance(0.02)) scheduler.passTime(scheduler.random.int(300));
    if (!(await scheduler.step())) scheduler.passTime(scheduler.random.int(500));
  }
}

/** No more faults: everyone is up, nothing is lost, and all must come to its end. */
async function calmDown(simulated: Simulated): Promise<void> {
  const { installation, plan } = simulated;
  const { scheduler, world, cloud, replicas, nodes, weather } = installation;
  scheduler.note("--- calm");
  plan.killIn = undefined;
  scheduler.trouble = undefined;
  weather.lossy = false;
  world.cutConnections(0);
  cloud.refuse(0);
  cloud.fail(0);
  for (const [index, replica] of replicas.entries()) {
    replica.process.isFrozen = false;
    if (!replica.process.isAlive && index === 0) installation.restartReplica(index);
  }
  // One alone must be able to finish everything.
  if (scheduler.random.chance(0.85)) scheduler.kill((replicas[1] as Replica).process);
  for (const node of nodes.values()) node.process.isFrozen = false;
  await settle(simulated);
}

/** Until nothing is open: the time that this takes is bounded. */
async function settle(simulated: Simulated): Promise<void> {
  const { installation, clients } = simulated;
  const { scheduler, replicas } = installation;
  const planes = replicas.map((replica) => replica.process);
  const untilMs = scheduler.nowMs() + CALM_MS_MAX;
  let roundMs = 0;
  while (scheduler.nowMs() < untilMs) {
    const isRound = scheduler.nowMs() - roundMs >= ROUND_MS;
    if (isRound) roundMs = scheduler.nowMs();
    for (const plane of planes) isRound ? scheduler.late.delete(plane) : scheduler.late.add(plane);
    await drain(simulated);
    if (await isQuiet(installation, clients)) return;
    scheduler.passTime(CALM_TICK_MS, roundMs + ROUND_MS - scheduler.nowMs());
  }
  const held = replicas.map((replica) => replica.deps.dispatcher.stats().held);
  throw new Error(
    `not quiet ${CALM_MS_MAX} ms after the last fault: ${await describeUnrest(installation, clients)}, held ${held}`,
  );
}

/** Lets all happen that can without time passing. */
async function drain({ installation, tally }: Simulated): Promise<void> {
  for (let at = 0; await installation.scheduler.step(); at++) {
    tally.steps += 1;
    if (at > STEPS_PER_TICK_MAX) throw new Error("it never comes to rest, though no time passes");
  }
}

const OPEN_JOBS = "SELECT count(*)::int AS n FROM jobs WHERE status IN ('queued', 'running')";

async function isQuiet(installation: Installation, clients: Clients): Promise<boolean> {
  const { replicas, nodes, world } = installation;
  if (clients.isWaiting()) return false;
  for (const node of nodes.values()) if (node.process.isAlive && !node.isIdle()) return false;
  // Slots that nobody uses are free again (R1: a leak would starve whoever comes next).
  if (replicas.some(({ process, deps }) => process.isAlive && deps.dispatcher.stats().held > 0)) return false;
  const [row] = await world.ask<{ n: number }>(OPEN_JOBS);
  return row?.n === 0;
}

async function describeUnrest({ nodes, world }: Installation, clients: Clients): Promise<string> {
  const busy = [...nodes.values()].filter((node) => node.process.isAlive && !node.isIdle()).map((node) => node.id);
  const jobs = await world.ask(
    "SELECT id, mode, status, cluster_id, splits_open, tasks_total, tasks_succeeded, tasks_failed, tasks_cancelled FROM jobs WHERE status IN ('queued', 'running')",
  );
  const tasks = await world.ask(
    "SELECT id, status, attempt, node_id, lease_expires_at, not_before FROM tasks WHERE status NOT IN ('succeeded', 'failed', 'cancelled')",
  );
  return JSON.stringify({ isClientWaiting: clients.isWaiting(), busy, jobs, tasks });
}
