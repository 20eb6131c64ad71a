import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Cluster, Job } from "@frazil/contracts";
import { bootstrap, type Config, type ControlPlane, startControlPlane } from "@frazil/control-plane";
import { Pool } from "pg";
import { pino } from "pino";
import { vi } from "vitest";
import { type Api, openApi } from "./api.ts";
import { createDatabase, type TestDatabase } from "./databases.ts";
import { type FakeCloud, makeFakeCloud } from "./fake-cloud.ts";
import { type FakeNode, type LeasedRun, startFakeNode } from "./fake-node.ts";
import { redisUrl } from "./redis.ts";
import { oneQuery, SHAPE, type SpecInput } from "./submissions.ts";

/** Fake nodes send no heartbeats of their own: nothing lapses unless a test makes it. */
const LEASE_TTL_TEST_MS = 300_000;

export interface TestOptions {
  /** Where BullMQ keeps its messages: Postgres by default; a URL for a Redis of the test's own choice. */
  readonly queue?: "postgres" | "redis" | { readonly url: string };
  readonly leaseTtlMs?: number;
  /** Error lines in the control plane's log that this test brings about. Any other fails the test file when it closes the plane. */
  readonly expectedErrors?: RegExp;
  /** On this database, rather than on one of its own on the Postgres of the test run. */
  readonly database?: TestDatabase;
  /** A second control plane of the same installation. */
  readonly beside?: TestControlPlane;
}

export interface TestControlPlane {
  readonly plane: ControlPlane;
  readonly address: string;
  readonly database: TestDatabase;
  readonly redis: string | undefined;
  readonly config: Config;
  readonly cloud: FakeCloud;
  readonly workspaceId: string;
  readonly otherWorkspaceId: string;
  /** A user of the first workspace, one of another, and nobody. */
  readonly api: Api;
  readonly stranger: Api;
  readonly nobody: Api;
  /** Every line of the log, as JSON text. */
  readonly logLines: string[];
  /** Brings a step forward that the reconciler would run a little later anyway. */
  hurry(step: Parameters<ControlPlane["deps"]["queue"]["send"]>[0], id: string): void;
  sql<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Another transaction has locked the job's row, until it is released. */
  holdJob(jobId: string): Promise<{ release(): Promise<void> }>;
  holdTask(taskId: string): Promise<{ release(): Promise<void> }>;
  /** A cluster that is ready, with its nodes connected. */
  warmCluster(over?: WarmOptions): Promise<WarmCluster>;
  close(): Promise<void>;
}

export interface WarmCluster {
  readonly clusterId: string;
  readonly nodes: FakeNode[];
  /** The first of them. */
  readonly node: FakeNode;
  /** Submits a query to this very cluster. */
  submit(over?: Partial<SpecInput>, options?: { content?: string; waitSeconds?: number }): Promise<Job>;
  /** Submits, and takes the run on the first node. */
  submitAndTake(over?: Partial<SpecInput>): Promise<LeasedRun & { job: Job }>;
}

export interface WarmOptions {
  readonly cpus?: number;
  readonly clusterSize?: number;
  readonly api?: Api;
}

/** Starts a control plane on a database of its own, with two workspaces and a cloud that a test commands. */
export async function startTestControlPlane(options: TestOptions = {}): Promise<TestControlPlane> {
  const { beside } = options;
  const database = beside?.database ?? options.database ?? (await createDatabase());
  const home = beside?.config.home ?? (await mkdtemp(join(tmpdir(), "frazil-plane-")));
  const redis = beside?.redis ?? (await redisOf(options.queue));
  const config: Config = {
    databaseUrl: database.url,
    redisUrl: redis,
    host: "127.0.0.1",
    port: 0,
    portFallback: false,
    home,
    key: beside?.config.key ?? randomBytes(32),
    publicAddress: undefined,
    logLevel: "debug",
    leaseTtlMs: options.leaseTtlMs ?? LEASE_TTL_TEST_MS,
    localNodesMax: 64,
    bootstrap: undefined,
  };
  const cloud = beside?.cloud ?? makeFakeCloud();
  const logLines: string[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => void logLines.push(line) });
  const plane = await startControlPlane(config, [cloud], log);
  const user = (workspace: string) =>
    bootstrap(plane.deps.pool, home, { workspace, user: `user of ${workspace}`, token: undefined });
  const mine = await user("mine");
  const others = await user("others");
  const pool = new Pool({ connectionString: database.url, max: 4 });
  const open: FakeNode[] = [];
  const api = openApi(plane.address, mine.token);
  return {
    plane,
    address: plane.address,
    database,
    redis,
    config,
    cloud,
    workspaceId: mine.workspaceId,
    otherWorkspaceId: others.workspaceId,
    api,
    stranger: openApi(plane.address, others.token),
    nobody: openApi(plane.address, undefined),
    logLines,
    hurry: (step, id) => plane.deps.queue.send(step, id),
    sql: async <Row>(text: string, values: readonly unknown[] = []) =>
      (await pool.query(text, [...values])).rows as Row[],
    holdJob: (jobId) => holdRow(pool, "jobs", jobId),
    holdTask: (taskId) => holdRow(pool, "tasks", taskId),
    async warmCluster(over = {}) {
      const warm = await startCluster(over.api ?? api, cloud, over);
      open.push(...warm.nodes);
      return warm;
    },
    async close() {
      await Promise.all(open.map((node) => node.disconnect()));
      await plane.close();
      const deadlocks = beside === undefined ? await countDeadlocks(pool) : 0;
      await pool.end();
      if (beside === undefined) await Promise.all([database.drop(), rm(home, { recursive: true })]);
      if (deadlocks > 0) throw new Error(`Postgres broke ${deadlocks} deadlocks`);
      expectNoErrors(logLines, options.expectedErrors);
    },
  };
}

/** The control plane has been there for so long, with its database: what it did not hear of meanwhile was silent, and what was not renewed has expired. */
export function makeThereFor({ plane }: TestControlPlane, seconds: number): void {
  vi.spyOn(plane.deps.changes, "healthyForMs").mockReturnValue(seconds * 1_000);
}

async function holdRow(pool: Pool, table: "jobs" | "tasks", id: string): Promise<{ release(): Promise<void> }> {
  const client = await pool.connect();
  await client.query("BEGIN");
  await client.query(`SELECT 1 FROM ${table} WHERE id = $1 FOR UPDATE`, [id]);
  return {
    async release() {
      await client.query("COMMIT");
      client.release();
    },
  };
}

async function redisOf(queue: TestOptions["queue"]): Promise<string | undefined> {
  if (typeof queue === "object") return queue.url;
  return queue === "redis" ? redisUrl() : undefined;
}

let clustersMade = 0;

async function startCluster(api: Api, cloud: FakeCloud, over: WarmOptions): Promise<WarmCluster> {
  const size = over.clusterSize ?? 1;
  // Each cluster has a shape of its own, so that no job of another test is placed on it.
  const memoryGiB = 1 + ++clustersMade / 1_000;
  const context = { cpus: over.cpus ?? SHAPE.cpus, memoryGiB, clusterSize: size };
  const { id } = await api.post<Cluster>("/v1/clusters", { context });
  const nodes: FakeNode[] = [];
  for (let at = 0; at < size; at++) nodes.push(await startFakeNode(await cloud.orderOf(id, at)));
  const cluster = await api.get<Cluster>(`/v1/clusters/${id}/wait?timeout=20`);
  if (cluster.status !== "ready") throw new Error(`cluster ${id} is ${cluster.status}`);
  const node = nodes[0] as FakeNode;
  const submit: WarmCluster["submit"] = (spec, options = {}) =>
    api.submit(oneQuery({ context: null, clusterId: id, ...spec }, options.content), options);
  return {
    clusterId: id,
    nodes,
    node,
    submit,
    async submitAndTake(spec) {
      const job = await submit(spec);
      return { job, ...(await node.takeRun()) };
    },
  };
}

async function countDeadlocks(pool: Pool): Promise<number> {
  const found = await pool.query("SELECT deadlocks::int AS n FROM pg_stat_database WHERE datname = current_database()");
  return found.rows[0].n;
}

const ERROR_LEVEL = 50;

function expectNoErrors(lines: readonly string[], expected: RegExp | undefined): void {
  const errors = lines.filter((line) => JSON.parse(line).level >= ERROR_LEVEL && !expected?.test(line));
  if (errors.length > 0) throw new Error(`the control plane logged errors:\n${errors.slice(0, 5).join("")}`);
}
