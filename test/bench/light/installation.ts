import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { openSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { eraseEmbeddedPostgres, startEmbeddedPostgres } from "@frazil/cli/dev/embedded-postgres";
import { PLANE_NODE_FLAGS } from "@frazil/cli/dev/plane-flags";
import type { Cluster } from "@frazil/contracts";
import { type Api, openApi } from "../../harness/api.ts";
import { waitUntil } from "../../harness/wait-until.ts";
import { BENCH_DIR } from "../paths.ts";
import type { FromNodes, FromPlane, Seen, ToNodes } from "./messages.ts";

/** Real control planes on a real Postgres, with nodes that are played by a few processes. */
export interface LightInstallation {
  readonly planes: readonly Plane[];
  readonly postgresPid: number;
  readonly databaseUrl: string;
  /** Of the first control plane. */
  readonly api: Api;
  /** A cluster with all of its nodes connected. Node n connects first to control plane n modulo their number. */
  startCluster(context: { cpus: number; memoryGiB: number; clusterSize: number }): Promise<string>;
  setTaskMs(taskMs: number): void;
  /** What all nodes saw since the last call. */
  look(): Promise<Seen>;
}
export interface Plane {
  readonly pid: number;
  readonly address: string;
  readonly api: Api;
  kill(): Promise<void>;
}

const CONNECT_MS_MAX = 120_000;
const START_MS_MAX = 30_000;

export interface LightOptions {
  readonly planes: number;
  readonly nodeProcesses: number;
}

export async function withLightInstallation<T>(
  options: LightOptions,
  work: (installation: LightInstallation) => Promise<T>,
): Promise<T> {
  const dir = await mkdtemp(join(BENCH_DIR, "light-"));
  const postgres = await startEmbeddedPostgres({ dir: join(dir, "postgres") });
  const children: ChildProcess[] = [];
  try {
    const installation = await start(options, { dir, url: postgres.url, pid: postgres.pid, children });
    return await work(installation);
  } finally {
    await Promise.all(children.map(endChild));
    await postgres.stop();
    await eraseEmbeddedPostgres(join(dir, "postgres"));
    await rm(dir, { recursive: true, force: true });
  }
}

interface Ground {
  readonly dir: string;
  readonly url: string;
  readonly pid: number;
  readonly children: ChildProcess[];
}

async function start(options: LightOptions, ground: Ground): Promise<LightInstallation> {
  const key = randomBytes(32).toString("base64");
  const connected = new Set<string>();
  const addresses: string[] = [];
  const players: ChildProcess[] = [];
  const seen: Seen[] = [];
  for (let number = 0; number < options.nodeProcesses; number++) {
    const player = forkScript("node-process.ts", number, ground, {});
    player.on("message", (message: FromNodes) => {
      if (message.kind === "connected") connected.add(message.nodeId);
      else seen.push(message);
    });
    players.push(player);
  }
  const tellAll = (message: ToNodes) => {
    for (const player of players) player.send(message);
  };
  let ordered = 0;
  const place = (order: Extract<FromPlane, { kind: "order" }>["order"]) => {
    const turn = ordered++;
    // The first address is another one for every node in turn; the others follow, for when that one is gone.
    const first = turn % addresses.length;
    const part = { order, addresses: [...addresses.slice(first), ...addresses.slice(0, first)] };
    players[turn % players.length]?.send({ kind: "play", part } satisfies ToNodes);
  };
  const planes: Plane[] = [];
  for (let number = 0; number < options.planes; number++) {
    const plane = await startPlane(number, key, ground, place);
    addresses.push(plane.address);
    planes.push(plane);
  }
  const api = planes[0]?.api as Api;
  return {
    planes,
    postgresPid: ground.pid,
    databaseUrl: ground.url,
    api,
    async startCluster(context) {
      const wanted = connected.size + context.clusterSize;
      const { id } = await api.post<Cluster>("/v1/clusters", { context });
      await waitUntil(`${wanted} nodes are connected`, () => connected.size >= wanted, CONNECT_MS_MAX);
      await waitUntil("the cluster is ready", async () => (await api.cluster(id)).status === "ready", CONNECT_MS_MAX);
      return id;
    },
    setTaskMs: (taskMs) => tellAll({ kind: "take", taskMs }),
    async look() {
      seen.length = 0;
      tellAll({ kind: "tell" });
      await waitUntil("all nodes told what they saw", () => seen.length === players.length, START_MS_MAX);
      return sumUp(seen);
    },
  };
}

async function startPlane(
  number: number,
  key: string,
  ground: Ground,
  place: (order: Extract<FromPlane, { kind: "order" }>["order"]) => void,
): Promise<Plane> {
  const home = join(ground.dir, "home");
  await mkdir(home, { recursive: true });
  const child = forkScript("plane-process.ts", number, ground, {
    DATABASE_URL: ground.url,
    FRAZIL_KEY: key,
    FRAZIL_HOME: home,
    FRAZIL_PORT: "0",
    FRAZIL_LOG_LEVEL: "warn",
    FRAZIL_BOOTSTRAP_WORKSPACE: "bench",
  });
  let started: Extract<FromPlane, { kind: "started" }> | undefined;
  child.on("message", (message: FromPlane) => {
    if (message.kind === "started") started = message;
    else place(message.order);
  });
  const { address, token } = await waitUntil("a control plane starts", () => started, START_MS_MAX);
  return {
    pid: child.pid ?? 0,
    address,
    api: openApi(address, token),
    async kill() {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
    },
  };
}

function forkScript(script: string, number: number, ground: Ground, env: Record<string, string>): ChildProcess {
  const log = openSync(join(BENCH_DIR, `${script}-${number}.log`), "w");
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("FRAZIL_") && name !== "REDIS_URL");
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), {
    env: { ...Object.fromEntries(inherited), ...env },
    execArgv: script === "plane-process.ts" ? [...PLANE_NODE_FLAGS] : [],
    stdio: ["ignore", log, log, "ipc"],
  });
  ground.children.push(child);
  return child;
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}

function sumUp(seen: readonly Seen[]): Seen {
  const sum = (read: (one: Seen) => number) => seen.reduce((total, one) => total + read(one), 0);
  const arrivals: Record<string, number> = {};
  for (const one of seen)
    for (const [jobId, atMs] of Object.entries(one.arrivals))
      arrivals[jobId] = Math.min(arrivals[jobId] ?? Number.POSITIVE_INFINITY, atMs);
  return {
    connected: sum((one) => one.connected),
    lost: sum((one) => one.lost),
    reconnects: sum((one) => one.reconnects),
    beatsMs: seen.flatMap((one) => one.beatsMs),
    arrivals,
  };
}
