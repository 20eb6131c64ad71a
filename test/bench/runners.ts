import { setTimeout as delay } from "node:timers/promises";
import type { Job } from "@frazil/contracts";
import { manyFrames, oneQuery } from "../harness/submissions.ts";
import { waitUntil } from "../harness/wait-until.ts";
import { type Benchmark, say } from "./benchmark.ts";
import { type LightInstallation, type Plane, withLightInstallation } from "./light/installation.ts";
import { nowMs } from "./light/messages.ts";
import { type CpuMeter, startCpuMeter } from "./processes.ts";
import type { Finding, Measurement } from "./report.ts";
import { percentile } from "./statistics.ts";

const CLUSTERS = 4;
const NODES_PER_CLUSTER = 250;
const NODES = CLUSTERS * NODES_PER_CLUSTER;
const CPUS = 2;
const NODE_PROCESSES = 4;
const QUIET_MS = 15_000;
const QUERIES = 400;
const WARMUP_QUERIES = 40;
/** What runs while a control plane is killed: twice as many tasks as there are slots. */
const TASKS = NODES * CPUS * 2;
const TASK_MS = 2_000;
const RECOVERY_MS_MAX = 120_000;

export const runners: Benchmark = { title: `${NODES.toLocaleString("en-US")} runners`, run: runRunners };

async function runRunners(): Promise<Finding> {
  say(`${NODES} runners on one control plane ...`);
  const alone = await withLightInstallation({ planes: 1, nodeProcesses: NODE_PROCESSES }, async (light) => {
    const clusters = await startClusters(light);
    return { connectSeconds: clusters.seconds, ...(await measure(light, clusters.ids)) };
  });
  say(`${NODES} runners on two control planes ...`);
  const two = await withLightInstallation({ planes: 2, nodeProcesses: NODE_PROCESSES }, async (light) => {
    const clusters = await startClusters(light);
    const before = await measure(light, clusters.ids);
    return { connectSeconds: clusters.seconds, ...before, recovery: await killOne(light, clusters.ids) };
  });
  const { recovery } = two;
  return {
    measurements: [measured("one control plane", alone), measured("two control planes", two)],
    ratios: [
      { name: "leases lost while nothing was wrong", value: alone.lost + two.lost, goal: "0" },
      { name: "p99 from submission to the lease at the runner, in ms", value: percentile(alone.leaseMs, 0.99) },
      { name: "one of two killed: all runners connected to the other after s", value: recovery.connectedSeconds },
      { name: "one of two killed: a new query has run on the other after s", value: recovery.queryMs / 1_000 },
      { name: "one of two killed: tasks that needed a second attempt", value: recovery.retried },
    ],
    notes: [
      `The runners are light: they speak the node protocol over real connections, ${NODES / NODE_PROCESSES} in a process, and share the machine's cores with the control plane and Postgres. Every task of the job that ran while a control plane was killed succeeded, once.`,
    ],
  };
}

async function startClusters(light: LightInstallation): Promise<{ ids: string[]; seconds: number }> {
  const startedAt = performance.now();
  const ids: string[] = [];
  for (let number = 1; number <= CLUSTERS; number++)
    ids.push(await light.startCluster({ cpus: CPUS, memoryGiB: number, clusterSize: NODES_PER_CLUSTER }));
  return { ids, seconds: (performance.now() - startedAt) / 1_000 };
}

interface Measured {
  readonly cpuQuiet: number;
  readonly cpuPostgresQuiet: number;
  readonly beatsMs: readonly number[];
  readonly leaseMs: readonly number[];
  readonly lost: number;
}

async function measure(light: LightInstallation, clusterIds: readonly string[]): Promise<Measured> {
  await light.look();
  const meters = light.planes.map((plane, number) => startCpuMeter(plane.pid, postgresOnce(light, number)));
  await delay(QUIET_MS);
  const quiet = await light.look();
  if (quiet.connected !== NODES) throw new Error(`${quiet.connected} of ${NODES} runners are connected`);
  const cores = sumOf(meters);
  const { leaseMs, lost } = await leaseQueries(light, clusterIds);
  return {
    cpuQuiet: (cores["control plane"] ?? 0) / (QUIET_MS / 1_000),
    cpuPostgresQuiet: (cores.postgres ?? 0) / (QUIET_MS / 1_000),
    beatsMs: quiet.beatsMs,
    leaseMs,
    lost: quiet.lost + lost,
  };
}

/** Postgres is metered along with the first control plane. */
function postgresOnce(light: LightInstallation, number: number): Record<string, number> {
  return number === 0 ? { postgres: light.postgresPid } : {};
}

function sumOf(meters: readonly CpuMeter[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const meter of meters)
    for (const [role, seconds] of Object.entries(meter.read())) sum[role] = (sum[role] ?? 0) + seconds;
  return sum;
}

/** Single queries, one after another, to every cluster and through every control plane in turn. */
async function leaseQueries(light: LightInstallation, clusterIds: readonly string[]) {
  const submittedAt: [string, number][] = [];
  for (let number = 0; number < WARMUP_QUERIES + QUERIES; number++) {
    const plane = light.planes[number % light.planes.length] as Plane;
    const clusterId = clusterIds[number % clusterIds.length] as string;
    const startedAt = nowMs();
    const job = await plane.api.submit(oneQuery({ context: null, clusterId }, `query ${number}`), { waitSeconds: 20 });
    if (job.status !== "succeeded") throw new Error(`a query is ${job.status}`);
    if (number >= WARMUP_QUERIES) submittedAt.push([job.id, startedAt]);
  }
  const seen = await light.look();
  const leaseMs = submittedAt.map(([jobId, atMs]) => {
    const arrived = seen.arrivals[jobId];
    if (arrived === undefined) throw new Error(`nobody saw a run of ${jobId}`);
    return arrived - atMs;
  });
  return { leaseMs, lost: seen.lost };
}

async function killOne(light: LightInstallation, clusterIds: readonly string[]) {
  const [first, second] = light.planes as [Plane, Plane];
  light.setTaskMs(TASK_MS);
  const jobs: Job[] = [];
  for (const clusterId of clusterIds) {
    const frames = Array.from({ length: TASKS / clusterIds.length }, () => 0);
    jobs.push(await second.api.submit(manyFrames(["a frame"], frames, { context: null, clusterId })));
  }
  await waitUntil(
    "all jobs run",
    async () => (await countsOf(second, jobs)).every((one) => one.running > 0),
    RECOVERY_MS_MAX,
  );
  say("killing one of them ...");
  await first.kill();
  const killedAt = performance.now();
  const queryMs = runQuery(second, clusterIds[0] as string).then(() => performance.now() - killedAt);
  await waitUntil("all runners are connected", async () => (await light.look()).connected === NODES, RECOVERY_MS_MAX);
  const connectedSeconds = (performance.now() - killedAt) / 1_000;
  await waitUntil(
    "all tasks succeeded",
    async () => (await countsOf(second, jobs)).every((one) => one.succeeded === one.total),
    RECOVERY_MS_MAX,
  );
  let retried = 0;
  for (const job of jobs) retried += (await second.api.tasks(job.id)).filter((task) => task.attempt > 1).length;
  return { connectedSeconds, queryMs: await queryMs, retried };
}

/** A query that waits for its turn among what runs there. */
async function runQuery(plane: Plane, clusterId: string): Promise<void> {
  const { id } = await plane.api.submit(oneQuery({ context: null, clusterId }, "after the kill"));
  const ended = await waitUntil(
    "the query has ended",
    async () => {
      const job = await plane.api.job(id).catch(() => undefined);
      return job?.finishedAt === null ? undefined : job;
    },
    RECOVERY_MS_MAX,
  );
  if (ended.status !== "succeeded") throw new Error(`the query after the kill is ${ended.status}`);
}

/** Nothing while the control plane is too busy to answer. */
async function countsOf(plane: Plane, jobs: readonly Job[]) {
  const now = await Promise.all(jobs.map((job) => plane.api.job(job.id).catch(() => undefined)));
  return now.map((job) => job?.counts ?? { total: -1, running: 0, succeeded: 0 });
}

function measured(subject: string, found: Measured & { connectSeconds: number }): Measurement {
  return {
    subject,
    figures: {
      "all connected after s": found.connectSeconds,
      "control plane cores, quiet": found.cpuQuiet,
      "Postgres cores, quiet": found.cpuPostgresQuiet,
      "heartbeat p50 ms": percentile(found.beatsMs, 0.5),
      "heartbeat p99 ms": percentile(found.beatsMs, 0.99),
      "lease p50 ms": percentile(found.leaseMs, 0.5),
      "lease p99 ms": percentile(found.leaseMs, 0.99),
    },
  };
}
