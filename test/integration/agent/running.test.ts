import { chmodSync, cpSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type AgentProcess,
  endNode,
  enginesOf,
  FAKE_ENGINE_DIR,
  lease,
  makeNodeDir,
  outcomeOf,
  PATIENT,
  sendLease,
  startAgent,
  until,
  untilHello,
} from "./agent-process.ts";
import { type FakeControlPlane, type FinishedMessage, startFakeControlPlane } from "./fake-control-plane.ts";

let plane: FakeControlPlane;
let nodeDir: string;
let agent: AgentProcess | undefined;

beforeEach(async () => {
  plane = await startFakeControlPlane();
  nodeDir = makeNodeDir();
});

afterEach(async () => {
  await endNode(plane, nodeDir, [agent]);
  agent = undefined;
});

async function startNode(env: Record<string, string> = {}): Promise<void> {
  agent = startAgent(plane, nodeDir, { ...PATIENT, ...env });
  await untilHello(plane, agent);
}

const outcome = (taskId: string) => outcomeOf(plane, taskId);

async function run(...args: Parameters<typeof lease>): Promise<FinishedMessage> {
  return outcome(sendLease(plane, ...args).taskId);
}

/** The fake engine answers with its own pid as the number of rows. */
function enginePid(message: FinishedMessage): number {
  if (message.outcome.kind !== "succeeded") throw new Error(JSON.stringify(message));
  return message.outcome.result.rows;
}

function errorOf(message: FinishedMessage) {
  if (message.outcome.kind !== "failed") throw new Error(JSON.stringify(message));
  return { ...message.outcome.error, retryable: message.outcome.retryable };
}

test("a node joins once, keeps its identity to itself, and runs a second task on the same warm engine", async () => {
  await startNode();
  const gate = join(nodeDir, "gate");
  const first = lease([
    ["progress", "reading"],
    ["print", "one"],
    ["print", "two"],
    ["wait-for", gate],
  ]);
  plane.send({ type: "lease", batch: first.batch });
  const phase = { type: "progress", taskId: first.taskId, attempt: 1, phase: "reading" };
  await until("its phase", () => plane.heard.some((message) => isDeepStrictEqual(message, phase)));
  const started = { type: "started", tasks: [{ taskId: first.taskId, attempt: 1 }] };
  await until("its start", () => plane.heard.some((message) => isDeepStrictEqual(message, started)));
  writeFileSync(gate, "");
  const finished = await outcome(first.taskId);
  expect(finished.usage?.peakMemoryBytes).toBeGreaterThan(1024 * 1024);
  // Who hears of the outcome can already read the whole log.
  expect(plane.lines.map(({ taskId, attempt, seq, stream, text }) => [taskId, attempt, seq, stream, text])).toEqual([
    [first.taskId, 1, 0, "stdout", "one"],
    [first.taskId, 1, 1, "stdout", "two"],
  ]);
  expect(enginePid(await run([]))).toBe(enginePid(finished));
  expect(plane.joins).toHaveLength(1);
  expect(statSync(join(nodeDir, "identity.json")).mode & 0o777).toBe(0o600);
  expect(agent?.output()).not.toContain("secret-node-token");
  expect(agent?.output()).not.toContain("join-token");
});

test("an engine sees the user's variables and the node's cloud credentials, and nothing else of the node", async () => {
  await startNode({ AWS_REGION: "eu-west-1", DATABASE_PASSWORD: "hush", FRAZIL_SECRET: "hush" });
  const env = { MODEL: "large", FRAZIL_ENGINE_MARK: "forged", PYTHONPATH: "/opt/mine", TMPDIR: "/" };
  const message = await run([["report", null]], { template: { env }, run: { slots: 2 } });
  const seen = JSON.parse(errorOf(message).message);
  expect(seen.env).toMatchObject({ AWS_REGION: "eu-west-1", MODEL: "large", POLARS_MAX_THREADS: "2" });
  expect(seen.env.PYTHONPATH).toMatch(/fake-engine:\/opt\/mine$/);
  expect(seen.env.FRAZIL_ENGINE_MARK).not.toBe("forged");
  expect(seen.env.TMPDIR.startsWith(join(nodeDir, "tmp"))).toBe(true);
  expect(JSON.stringify(seen.env)).not.toMatch(/hush|join-token|DATABASE/);
  expect(seen.oom).toBe("800");
  agent?.child.kill("SIGTERM");
  expect(await agent?.exited).toBe(0);
  expect(readdirSync(join(nodeDir, "tmp"))).toEqual([]);
});

test("engines are not shared between workspaces, environment variables, or users after Python", async () => {
  await startNode();
  const plain = enginePid(await run([], { template: { user: "ada" } }));
  expect(enginePid(await run([], { template: { user: "bob" } }))).toBe(plain);
  const python = await run([["python", true]], { template: { user: "bob" } });
  expect([enginePid(python), python.openedPython]).toEqual([plain, true]);
  expect(enginePid(await run([], { template: { user: "bob" } }))).toBe(plain);
  const pids = [
    plain,
    enginePid(await run([], { template: { user: "ada" } })),
    enginePid(await run([], { template: { workspaceId: "ws_2", user: "bob" } })),
    enginePid(await run([], { template: { user: "bob", env: { A: "1" } } })),
    enginePid(await run([], { template: { user: "bob", env: { A: "2" } } })),
    enginePid(await run([], { template: { user: "bob" }, run: { slots: 2 } })),
  ];
  expect(new Set(pids).size).toBe(pids.length);
});

test("an idle node starts an engine in advance, and gives it to the first workspace that fits", async () => {
  await startNode();
  const used = enginePid(await run([]));
  const pristine = await until("a second engine", () => enginesOf(nodeDir).find((pid) => pid !== used));
  await until("it is ready", () => (agent?.output().match(/"engine ready"/g) ?? []).length === 2);
  expect(enginePid(await run([], { template: { workspaceId: "ws_2" } }))).toBe(pristine);
});

test("a run waits for the engine that is about to be idle rather than for another one to start", async () => {
  await startNode();
  const slow = { template: { env: { IDLE_AFTER_SECONDS: "0.3" } } };
  const pids = [await run([], slow), await run([], slow), await run([], slow)].map(enginePid);
  expect(new Set(pids).size).toBe(1);
});

test("as many runs go on at once as there are slots, and a run of the whole node is not overtaken", async () => {
  await startNode();
  const gates = ["first", "first", "third", "fourth"].map((name) => join(nodeDir, name));
  const leases = [1, 1, 2, 1].map((slots, at) => lease([["wait-for", gates[at]]], { run: { slots } }));
  for (const { batch } of leases) plane.send({ type: "lease", batch });
  const started = () => plane.heard.flatMap((message) => (message.type === "started" ? message.tasks : []));
  await until("two runs", () => started().length === 2);
  const ids = leases.map((leased) => leased.taskId);
  expect(new Set(started().map((ref) => ref.taskId))).toEqual(new Set(ids.slice(0, 2)));
  for (const at of [2, 3]) {
    writeFileSync(gates[at - 1] as string, "");
    await until("the next run", () => started().length > at);
    expect(started().map((ref) => ref.taskId)[at]).toBe(ids[at]);
  }
  writeFileSync(gates[3] as string, "");
  await Promise.all(ids.map(outcome));
});

test("a batch of keys is one run, with an answer per key", async () => {
  await startNode();
  const leased = lease([], { tasks: 3, run: { slots: 2 } });
  plane.send({ type: "lease", batch: leased.batch });
  const pids = (await Promise.all(leased.taskIds.map(outcome))).map(enginePid);
  expect(new Set(pids).size).toBe(1);
});

test("leases and plans that are too large for a message are fetched, and large outcomes sent, by HTTP", async () => {
  await startNode();
  plane.plans.set("plan_7", Buffer.from(JSON.stringify([["head", 100_000]])));
  const leased = lease([], { run: { plan: null, planId: "plan_7" } });
  plane.batches.push(leased.batch);
  plane.send({ type: "lease_by_reference", tasks: [{ taskId: leased.taskId, attempt: 1 }] });
  const { outcome: found } = await outcome(leased.taskId);
  expect(found).toMatchObject({ kind: "succeeded", head: Buffer.from("h".repeat(100_000)).toString("base64") });
  expect(plane.largestFrameBytes).toBeLessThan(64 * 1024);
});

test("an answer that is too large for the control plane is a failure that says so, and not sent for ever", async () => {
  await startNode();
  plane.refuseLargeWith = 413;
  const { taskId, outcome: found } = await run([["head", 100_000]]);
  expect(found).toMatchObject({ kind: "failed", error: { code: "limit_exceeded" }, retryable: false });
  await run([]);
  expect(plane.heard.filter((message) => message.type === "finished" && message.taskId === taskId)).toHaveLength(1);
});

test("a staged output is published when the control plane says so, and abandoned when it does", async () => {
  await startNode();
  const published = await run([["stage", 41]]);
  expect(published.outcome).toMatchObject({ kind: "succeeded", result: { rows: 41 } });
  expect(plane.heard).toContainEqual({ type: "staged", taskId: published.taskId, attempt: 1, manifest: { rows: 41 } });

  plane.onStaged = "abandon";
  const lost = lease([["stage", 42]]);
  plane.send({ type: "lease", batch: lost.batch });
  await until("it is staged", () =>
    plane.heard.find((message) => message.type === "staged" && message.taskId === lost.taskId),
  );
  // The engine lets go of it, and is there for the next run.
  expect(enginePid(await run([]))).toBeGreaterThan(0);
  expect(plane.finished(lost.taskId)).toBeUndefined();
});

test("the publishing that another engine began is finished from its manifest", async () => {
  await startNode();
  const message = await run([], {
    run: { publish: { manifest: { rows: 43 } } },
    template: { hasPython: true, python: "3.99" },
  });
  expect(message.outcome).toMatchObject({ kind: "succeeded", result: { rows: 43 } });
});

test("output past Python reaches the log of the task, with bytes that are not text replaced", async () => {
  await startNode();
  const { taskId } = await run([["raw", "thread panicked \xff\nlast words"]]);
  const lines = plane.lines.filter((line) => line.taskId === taskId).map((line) => [line.stream, line.text]);
  expect(lines).toEqual([
    ["stderr", "thread panicked \uFFFD"],
    ["stderr", "last words"],
  ]);
});

test("an attempt that writes without end fills its own log and no more", async () => {
  await startNode();
  const { taskId } = await run([["print-lines", 2_000]]);
  const lines = plane.lines.filter((line) => line.taskId === taskId);
  // 1 MiB is 1,048 lines of 1,000 bytes, and some.
  expect(lines).toHaveLength(1_049);
  expect(lines.at(-1)).toMatchObject({
    stream: "system",
    seq: 1_048,
    text: expect.stringContaining("limit of 1024 KiB"),
  });
});

test("an environment is made once, tells what it is doing, and its failure is told in uv's words", async () => {
  const calls = join(nodeDir, "uv-calls");
  await startNode({ FAKE_UV_CALLS: calls });
  const { taskId } = await run([]);
  const phases = plane.heard.flatMap((message) =>
    message.type === "progress" && message.taskId === taskId ? [message.phase] : [],
  );
  expect(phases[0]).toMatch(/^making the engine environment: polars 2\.1\.0, python 3\.\d+$/);
  await run([], { template: { workspaceId: "ws_2" } });
  expect(readFileSync(calls, "utf8")).toBe("venv\npip\n");
  const failed = errorOf(await run([], { template: { packages: ["no-such-package"] } }));
  expect(failed).toMatchObject({ code: "environment_failed", retryable: false });
  expect(failed.message).toContain("No solution found: no-such-package was not found");
  const option = errorOf(await run([], { template: { packages: ["--index-url=http://elsewhere"] } }));
  expect(option.message).toContain("is not a package requirement");
});

test("an engine that ends before it is ready fails the task with what it wrote", async () => {
  await startNode();
  const failed = errorOf(await run([], { template: { env: { FAIL_TO_START: "1" } } }));
  expect(failed).toMatchObject({ code: "environment_failed", retryable: false });
  expect(failed.message).toContain("this engine does not start");
});

test("a plan with Python functions is refused where its Python is not installed; any other plan runs", async () => {
  await startNode();
  const failed = errorOf(await run([], { template: { hasPython: true, python: "3.99" } }));
  expect(failed).toMatchObject({ code: "unsupported_python", retryable: false });
  expect(failed.message).toMatch(/Python 3\.99.*This node has: 3\.\d+/);
  expect(enginePid(await run([], { template: { python: "3.99" } }))).toBeGreaterThan(0);
});

test("a lease that comes twice runs once", async () => {
  await startNode();
  const gate = join(nodeDir, "gate");
  const leased = lease([["wait-for", gate]]);
  plane.send({ type: "lease", batch: leased.batch });
  plane.send({ type: "lease", batch: leased.batch });
  await until("it has started", () => plane.heard.some((message) => message.type === "started"));
  writeFileSync(gate, "");
  await outcome(leased.taskId);
  await run([]);
  expect(plane.heard.filter((message) => message.type === "finished" && message.taskId === leased.taskId)).toHaveLength(
    1,
  );
  expect(existsSync(gate)).toBe(true);
});

/** Another user can be had only by root, and needs a Python that it can reach. */
const systemPython = ["3.10", "3.11", "3.12", "3.13", "3.14"].find((minor) => existsSync(`/usr/bin/python${minor}`));

test.runIf(process.getuid?.() === 0 && systemPython !== undefined)(
  "engines run as the user that the node is told to use",
  async () => {
    chmodSync(nodeDir, 0o700);
    cpSync(FAKE_ENGINE_DIR, join(nodeDir, "engine"), { recursive: true });
    await startNode({
      FRAZIL_ENGINE_USER: "nobody",
      FRAZIL_ENGINE_DIR: join(nodeDir, "engine"),
      PATH: "/usr/bin:/bin",
    });
    const seen = JSON.parse(
      errorOf(await run([["report", null]], { template: { python: systemPython as string } })).message,
    );
    expect(seen.uid).not.toBe(0);
    expect(seen.env.HOME).toBe(seen.env.TMPDIR);
    expect(seen.canWrite).toBe(true);
    expect(seen.oom).toBe("800");
    expect(() => readFileSync(join(nodeDir, "identity.json"))).not.toThrow();
    expect(seen.canReadIdentity).toBe(false);
  },
);
