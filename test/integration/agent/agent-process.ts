import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AGENT_MAIN } from "@frazil/agent";
import type { LeaseBatch, Run, RunTemplate, TaskRef } from "@frazil/contracts";
import type { FakeControlPlane, FinishedMessage } from "./fake-control-plane.ts";

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
export const FAKE_ENGINE_DIR = here("fake-engine");
const POLL_MS = 5;
const WITHIN_MS = 15_000;

/** Polls until the value is there. The error says what was waited for. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false,
  withinMs: number = WITHIN_MS,
): Promise<T> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const value = look();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

export interface AgentProcess {
  readonly child: ChildProcess;
  readonly nodeDir: string;
  /** Resolves to the exit code, or to the signal. */
  readonly exited: Promise<number | string>;
  output(): string;
}

export function makeNodeDir(): string {
  return mkdtempSync(join(tmpdir(), "frazil-agent-test-"));
}

export function removeNodeDir(nodeDir: string): void {
  rmSync(nodeDir, { recursive: true, force: true, maxRetries: 5 });
}

/** For tests that are not about the connection: a machine under load keeps it. */
export const PATIENT = { FRAZIL_HEARTBEAT_INTERVAL_MS: "10000" };

/** Starts the real agent, with the fake engine and a stand-in for uv. */
export function startAgent(
  plane: Pick<FakeControlPlane, "address">,
  nodeDir: string,
  env: Record<string, string> = {},
): AgentProcess {
  const child = spawn(process.execPath, [AGENT_MAIN], {
    stdio: ["ignore", "inherit", "pipe"],
    env: {
      ...process.env,
      FRAZIL_ADDRESS: plane.address,
      FRAZIL_JOIN_TOKEN: "join-token",
      FRAZIL_NODE_DIR: nodeDir,
      FRAZIL_CACHE_DIR: join(nodeDir, "cache"),
      FRAZIL_ENGINE_DIR: FAKE_ENGINE_DIR,
      FRAZIL_UV: here("fake-uv"),
      FRAZIL_HEARTBEAT_INTERVAL_MS: "100",
      ...env,
    },
  });
  let output = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  const exited = new Promise<number | string>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? signal ?? "?"));
  });
  return { child, nodeDir, exited, output: () => output };
}

/** Until the agent has connected (again). */
export async function untilHello(plane: FakeControlPlane, agent: AgentProcess, hellos = 1): Promise<void> {
  await until("the agent says hello", () => {
    if (agent.child.exitCode !== null) throw new Error(`the agent has ended: ${agent.output()}`);
    return plane.heard.filter((message) => message.type === "hello").length >= hellos;
  });
}

/** Ends the agents of a node hard, and leaves nothing of them: no process, no file. */
export async function endNode(
  plane: FakeControlPlane,
  nodeDir: string,
  agents: readonly (AgentProcess | undefined)[],
): Promise<void> {
  for (const agent of agents) {
    agent?.child.kill("SIGKILL");
    await agent?.exited;
  }
  await plane.close();
  await until("no engine is left", () => enginesOf(nodeDir).length === 0);
  removeNodeDir(nodeDir);
}

/** Leases one run to the node. */
export function sendLease(plane: FakeControlPlane, ...args: Parameters<typeof lease>): ReturnType<typeof lease> {
  const leased = lease(...args);
  plane.send({ type: "lease", batch: leased.batch });
  return leased;
}

export function outcomeOf(plane: FakeControlPlane, taskId: string): Promise<FinishedMessage> {
  return until(`an outcome of ${taskId}`, () => plane.finished(taskId));
}

export function untilStarted(plane: FakeControlPlane, taskId: string): Promise<unknown> {
  return until(`${taskId} has started`, () =>
    plane.heard.some((message) => message.type === "started" && message.tasks.some((ref) => ref.taskId === taskId)),
  );
}

type Step = [verb: string, argument: unknown];
let made = 0;

/** A lease of one run of the fake engine, which carries out these steps for each task. */
export function lease(
  steps: Step[],
  options: { template?: Partial<RunTemplate>; run?: Partial<Run>; tasks?: number } = {},
) {
  const tasks = Array.from({ length: options.tasks ?? 1 }, (): TaskRef => {
    made += 1;
    return { taskId: `task_${made}`, attempt: 1, frame: null, keyToken: null, keyPath: null };
  });
  const batch: LeaseBatch = {
    template: {
      jobId: "job_1",
      workspaceId: "ws_1",
      user: "ada",
      polars: "2.1.0",
      python: "3.11",
      hasPython: false,
      packages: [],
      env: {},
      engine: "auto",
      output: { format: "ipc", destination: null, mode: "error", options: {}, storageOptions: {} },
      resultsLocation: "/results",
      partitionBy: null,
      splitState: null,
      seed: null,
      cwd: null,
      headBytesMax: 65_536,
      timeoutMs: 60_000,
      ...options.template,
    },
    runs: [
      {
        kind: tasks.length > 1 ? "key" : "query",
        tasks,
        planId: "plan_1",
        planKind: "dsl",
        plan: Buffer.from(JSON.stringify(steps)).toString("base64"),
        slots: 1,
        publish: null,
        ...options.run,
      },
    ],
  };
  return { batch, taskIds: tasks.map((task) => task.taskId), taskId: tasks[0]?.taskId as string };
}

/** Processes that carry this node's engine mark or command line: engines and what they started. */
export function enginesOf(nodeDir: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const environment = readFileSync(`/proc/${name}/environ`, "latin1");
      const state = readFileSync(`/proc/${name}/stat`, "latin1").split(") ")[1]?.[0];
      return environment.includes(`TMPDIR=${nodeDir}/`) && state !== "Z" ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

/** A process that has ended stays in the table until its parent has looked: that is not alive. */
export function isAlive(pid: number): boolean {
  return existsSync(`/proc/${pid}/stat`) && !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
}
