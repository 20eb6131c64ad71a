import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FromNode, RunTemplate, SweepOrder } from "@frazil/contracts";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type AgentProcess,
  endNode,
  lease,
  makeNodeDir,
  outcomeOf,
  PATIENT,
  sendLease,
  startAgent,
  until,
  untilHello,
} from "./agent-process.ts";
import { type FakeControlPlane, startFakeControlPlane } from "./fake-control-plane.ts";

let plane: FakeControlPlane;
let nodeDir: string;
let agent: AgentProcess;

beforeAll(async () => {
  plane = await startFakeControlPlane();
  nodeDir = makeNodeDir();
  agent = startAgent(plane, nodeDir, PATIENT);
  await untilHello(plane, agent);
});

afterAll(() => endNode(plane, nodeDir, [agent]));

type Swept = Extract<FromNode, { type: "swept" }>;
const templateOf = (over: Partial<RunTemplate>) => lease([], { template: over }).batch.template;

function partOf(over: Partial<RunTemplate>, attempt: number, next: string | null = null): SweepOrder {
  return { template: templateOf(over), attempts: [{ taskId: "task_lost", attempt }], next };
}

/** Orders a sweep, and gives what the node answers. */
async function sweep(jobId: string, ...parts: SweepOrder[]): Promise<Swept> {
  if (parts.length > 0) plane.sweeps.set(jobId, parts);
  plane.send({ type: "sweep", jobId, token: `token of ${jobId}` });
  const swept = await until(`${jobId} is swept`, () =>
    plane.heard.find((message): message is Swept => message.type === "swept" && message.jobId === jobId),
  );
  expect(swept.token).toBe(`token of ${jobId}`);
  return swept;
}

async function run(...args: Parameters<typeof lease>): Promise<number> {
  const { outcome } = await outcomeOf(plane, sendLease(plane, ...args).taskId);
  if (outcome.kind !== "succeeded") throw new Error(JSON.stringify(outcome));
  return outcome.result.rows;
}

test("a warm engine of the job's own environment is told what to remove, and serves on", async () => {
  const pid = await run([]);
  const output = { format: "csv", destination: "s3://b/d", mode: "error", options: {}, storageOptions: { key: "k" } };
  const template = { jobId: "job_7", output, cwd: "/home", resultsLocation: "/r" } as Partial<RunTemplate>;
  const { error } = await sweep("job_7", partOf(template, 2));
  expect(error?.code).toBe("storage_failed");
  expect(JSON.parse(error?.message ?? "")).toEqual({
    pid,
    type: "sweep",
    jobId: "job_7",
    attempts: [{ taskId: "task_lost", attempt: 2 }],
    output,
    resultsLocation: "/r",
    cwd: "/home",
  });
  expect(await run([])).toBe(pid);
});

test("all parts of an order are carried out, up to one that fails", async () => {
  const clean = { resultsLocation: "/clean" };
  expect((await sweep("job_8", partOf(clean, 1, "1"), partOf(clean, 2))).error).toBeNull();
  const { error } = await sweep("job_9", partOf(clean, 1, "1"), partOf({}, 2, "2"), partOf({}, 3));
  expect(JSON.parse(error?.message ?? "").attempts).toEqual([{ taskId: "task_lost", attempt: 2 }]);
});

test("an order that can't be had, or kills its engine, is answered, and the node serves on", async () => {
  expect((await sweep("job_10")).error).toMatchObject({ code: "unavailable" });
  const { error } = await sweep("job_11", partOf({ resultsLocation: "/deadly" }, 1));
  expect(error).toEqual({ code: "unavailable", message: "the engine ended meanwhile (9)" });
  expect((await sweep("job_12", partOf({ resultsLocation: "/clean" }, 1))).error).toBeNull();
  expect(await run([])).toBeGreaterThan(0);
});

test("runs go first, and another workspace's engine is not asked", async () => {
  const pid = await run([]);
  const gate = join(nodeDir, "gate");
  const busy = lease([["wait-for", gate]]);
  plane.send({ type: "lease", batch: busy.batch });
  await until("it has started", () =>
    plane.heard.some((one) => one.type === "started" && one.tasks.some((ref) => ref.taskId === busy.taskId)),
  );
  const swept = sweep("job_13", partOf({ workspaceId: "ws_2" }, 1));
  await run([]);
  expect(plane.heard.some((message) => message.type === "swept" && message.jobId === "job_13")).toBe(false);
  writeFileSync(gate, "");
  const { error } = await swept;
  expect(plane.finished(busy.taskId)).toBeDefined();
  expect(JSON.parse(error?.message ?? "").pid).not.toBe(pid);
});
