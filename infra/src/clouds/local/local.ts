import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterShape } from "@frazil/contracts";
import { removeTree } from "@frazil/contracts/remove-tree";
import type { Cloud, NodeHandle, NodeOrder } from "../../cloud.ts";

/** How long a node may drain when the control plane ends, before it is killed. */
const CLOSE_DRAIN_MS = 1_500;
const POLL_MS = 20;
/** How long the files of a node whose agent died stay for what ends its engines. */
const ORPHANS_WITHIN_MS = 3_000;

export interface LocalCloudOptions {
  /** Directory under which each node has its own. */
  readonly nodesDir: string;
  /** Program and arguments that start an agent. */
  readonly agentCommand: readonly [string, ...string[]];
  readonly nodesMax: number;
}

/** Nodes are processes of this machine: real runners, with real engines and limits, on cores that they share with everything else here. */
export function openLocalCloud(options: LocalCloudOptions): Cloud {
  mkdirSync(options.nodesDir, { recursive: true, mode: 0o700 });
  return {
    name: "local",
    refusal: (shape) => refuse(shape, options.nodesMax),
    async createNode(order) {
      const before = readPid(options.nodesDir, order.nodeId);
      if (before !== undefined && isRunning(before)) return { kind: "made", handle: { ...before } };
      const identity = startAgent(options, order);
      return { kind: "made", handle: { ...identity } };
    },
    async listAlive(nodes) {
      const alive = nodes.filter((node) => {
        const identity = identityOf(options.nodesDir, node);
        return identity !== undefined && isRunning(identity);
      });
      return new Set(alive.map((node) => node.nodeId));
    },
    async destroyNode(node, urgency) {
      const identity = identityOf(options.nodesDir, node);
      if (identity !== undefined && isRunning(identity))
        process.kill(identity.pid, urgency === "force" ? "SIGKILL" : "SIGTERM");
      else await removeNode(join(options.nodesDir, node.nodeId));
    },
    close: () => endAll(options.nodesDir),
  };
}

/** The machine is gone, whatever its files say: those that can't be removed stay. */
async function removeNode(dir: string): Promise<void> {
  // When an agent dies, its guard ends what it left, which is recorded there.
  await waitWhile(() => hasEngines(dir), ORPHANS_WITHIN_MS);
  await removeTree(dir).catch(() => undefined);
}

async function waitWhile(condition: () => boolean, withinMs: number): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (condition() && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
}

function hasEngines(dir: string): boolean {
  try {
    return readdirSync(join(dir, "engines")).length > 0;
  } catch {
    return false;
  }
}

function refuse(shape: ClusterShape, nodesMax: number): string | undefined {
  if (shape.gpus > 0) return "the local cloud has no GPU nodes; ask for gpus=0";
  if (shape.clusterSize > nodesMax) {
    return `the local cloud starts at most ${nodesMax} nodes; ask for a smaller cluster_size, or raise FRAZIL_LOCAL_NODES_MAX`;
  }
  return undefined;
}

/** A pid alone could be another process's after a reboot or wrap-around: the start time tells. */
interface ProcessIdentity {
  readonly pid: number;
  readonly startedAt: string;
}

function startAgent(options: LocalCloudOptions, order: NodeOrder): ProcessIdentity {
  const dir = join(options.nodesDir, order.nodeId);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const log = openSync(join(dir, "agent.log"), "a", 0o600);
  try {
    const [program, ...args] = options.agentCommand;
    const child = spawn(program, args, {
      cwd: dir,
      detached: true,
      stdio: ["ignore", log, log],
      env: { ...inheritedEnvironment(), ...order.environment, FRAZIL_NODE_DIR: dir },
    });
    child.on("error", () => undefined);
    child.unref();
    if (child.pid === undefined) throw new Error(`could not start ${program}`);
    const identity = { pid: child.pid, startedAt: startTimeOf(child.pid) ?? "" };
    writeFileSync(join(dir, "agent.pid"), JSON.stringify(identity), { mode: 0o600 });
    return identity;
  } finally {
    closeSync(log);
  }
}

/** A node does not get what only the control plane should know. */
function inheritedEnvironment(): Record<string, string | undefined> {
  const kept = Object.entries(process.env).filter(
    ([name]) => !name.startsWith("FRAZIL_") && name !== "DATABASE_URL" && name !== "REDIS_URL",
  );
  const passed = [
    "FRAZIL_UV",
    "FRAZIL_ENGINE_DIR",
    "FRAZIL_CACHE_DIR",
    "FRAZIL_ENGINE_USER",
    "FRAZIL_ABANDONED_AFTER_MS",
  ];
  return Object.fromEntries([
    ...kept,
    ...passed.filter((name) => process.env[name] !== undefined).map((name) => [name, process.env[name]]),
  ]);
}

function identityOf(
  nodesDir: string,
  node: { nodeId: string; handle: NodeHandle | null },
): ProcessIdentity | undefined {
  const { handle } = node;
  if (handle !== null && typeof handle.pid === "number" && typeof handle.startedAt === "string")
    return { pid: handle.pid, startedAt: handle.startedAt };
  return readPid(nodesDir, node.nodeId);
}

function readPid(nodesDir: string, nodeId: string): ProcessIdentity | undefined {
  const path = join(nodesDir, nodeId, "agent.pid");
  if (!existsSync(path)) return undefined;
  try {
    return JSON.parse(readFileSync(path, "utf8")) as ProcessIdentity;
  } catch {
    return undefined;
  }
}

function isRunning(identity: ProcessIdentity): boolean {
  try {
    process.kill(identity.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  const startedAt = startTimeOf(identity.pid);
  return startedAt === undefined || identity.startedAt === "" || startedAt === identity.startedAt;
}

/** Start time in clock ticks since boot, field 22 of /proc/<pid>/stat; a zombie has ended. Undefined where there is no /proc. */
function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? "zombie" : fields[19];
  } catch {
    return undefined;
  }
}

/** Also those that an earlier control plane of the same home started. */
async function endAll(nodesDir: string): Promise<void> {
  const running = () =>
    readdirSync(nodesDir).flatMap((nodeId) => {
      const identity = readPid(nodesDir, nodeId);
      return identity !== undefined && isRunning(identity) ? [identity] : [];
    });
  for (const identity of running()) process.kill(identity.pid, "SIGTERM");
  await waitWhile(() => running().length > 0, CLOSE_DRAIN_MS);
  for (const identity of running()) process.kill(identity.pid, "SIGKILL");
}
