import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Cluster } from "@frazil/contracts";
import { bootstrap, type Config, type ControlPlane, startControlPlane } from "@frazil/control-plane";
import { Pool } from "pg";
import { pino } from "pino";
import { type Api, openApi } from "./api.ts";
import { createDatabase, type TestDatabase } from "./databases.ts";
import { type FakeCloud, makeFakeCloud } from "./fake-cloud.ts";
import { type FakeNode, startFakeNode } from "./fake-node.ts";
import { redisUrl } from "./redis.ts";
import { SHAPE } from "./submissions.ts";

export interface TestOptions {
  /** Where BullMQ keeps its messages: Postgres by default; a URL for a Redis of the test's own choice. */
  readonly queue?: "postgres" | "redis" | { readonly url: string };
  readonly leaseTtlMs?: number;
  /** Error lines in the control plane's log that this test brings about. Any other fails the test file when it closes the plane. */
  readonly expectedErrors?: RegExp;
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
  sql<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** A cluster that is ready, with its nodes connected. */
  warmCluster(over?: WarmOptions): Promise<{ clusterId: string; nodes: FakeNode[]; node: FakeNode }>;
  close(): Promise<void>;
}

export interface WarmOptions {
  readonly cpus?: number;
  readonly clusterSize?: number;
  readonly api?: Api;
}

/** Starts a control plane on a database of its own, with two workspaces and a cloud that a test commands. */
export async function startTestControlPlane(options: TestOptions = {}): Promise<TestControlPlane> {
  const { beside } = options;
  const database = beside?.database ?? (await createDatabase());
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
    leaseTtlMs: options.leaseTtlMs,
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
    sql: async <Row>(text: string, values: readonly unknown[] = []) =>
      (await pool.query(text, [...values])).rows as Row[],
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

async function redisOf(queue: TestOptions["queue"]): Promise<string | undefined> {
  if (typeof queue === "object") return queue.url;
  return queue === "redis" ? redisUrl() : undefined;
}

async function startCluster(api: Api, cloud: FakeCloud, over: WarmOptions) {
  const first = cloud.orders.length;
  const size = over.clusterSize ?? 1;
  const context = { ...SHAPE, cpus: over.cpus ?? SHAPE.cpus, clusterSize: size };
  const { id } = await api.post<Cluster>("/v1/clusters", { context });
  const nodes: FakeNode[] = [];
  for (let at = 0; at < size; at++) nodes.push(await startFakeNode(await cloud.order(first + at)));
  const cluster = await api.get<Cluster>(`/v1/clusters/${id}/wait?timeout=20`);
  if (cluster.status !== "ready") throw new Error(`cluster ${id} is ${cluster.status}`);
  return { clusterId: id as string, nodes, node: nodes[0] as FakeNode };
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
