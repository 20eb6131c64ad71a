/** A task that is cancelled before its engine has it: whatever it waits for just then. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type AgentProcess,
  endNode,
  enginesOf,
  isAlive,
  type lease,
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
let gate: string;

beforeEach(async () => {
  plane = await startFakeControlPlane();
  nodeDir = makeNodeDir();
  gate = join(nodeDir, "gate");
});

afterEach(() => endNode(plane, nodeDir, [agent]));

async function startNode(env: Record<string, string> = {}): Promise<void> {
  agent = startAgent(plane, nodeDir, { ...PATIENT, ...env });
  await untilHello(plane, agent);
}

function send(...args: Parameters<typeof lease>): string {
  return sendLease(plane, ...args).taskId;
}

/** It is given back, though what it waits for does not come. */
async function cancel(taskId: string): Promise<void> {
  plane.send({ type: "cancel", tasks: [{ taskId, attempt: 1 }] });
  expect((await outcomeOf(plane, taskId)).outcome).toEqual({ kind: "released" });
}

/** What it waited for has come, and it has not begun all the same: the node is as before. */
async function expectNothingLeft(taskId: string, ran: string, next: Parameters<typeof lease>): Promise<void> {
  const both = [send(...next), send(...next)];
  for (const one of both) expect((await outcomeOf(plane, one)).outcome.kind).toBe("succeeded");
  expect(existsSync(ran)).toBe(false);
  expect(plane.heard.filter((one) => one.type === "finished" && one.taskId === taskId)).toHaveLength(1);
  const started = plane.heard.flatMap((one) => (one.type === "started" ? one.tasks.map((task) => task.taskId) : []));
  expect(started).not.toContain(taskId);
}

test("while its environment is made: which others then find ready", async () => {
  const calls = join(nodeDir, "uv-calls");
  await startNode({ FAKE_UV_GATE: gate, FAKE_UV_CALLS: calls });
  const ran = join(nodeDir, "ran");
  const taskId = send([["touch", ran]]);
  await until("the environment is being made", () =>
    plane.heard.some((one) => one.type === "progress" && one.taskId === taskId && one.phase.startsWith("making")),
  );
  await cancel(taskId);
  writeFileSync(gate, "");
  await expectNothingLeft(taskId, ran, [[]]);
  expect(readFileSync(calls, "utf8")).toBe("venv\npip\n");
});

test("while its environment is made, by the end of its agent: which leaves no installation behind", async () => {
  const pidFile = join(nodeDir, "uv-pid");
  await startNode({ FAKE_UV_GATE: gate, FAKE_UV_PID: pidFile });
  send([]);
  const pid = await until("the environment is being made", () => {
    const text = existsSync(pidFile) ? readFileSync(pidFile, "utf8") : "";
    return text.endsWith("\n") && Number(text);
  });
  expect(isAlive(pid)).toBe(true);
  agent.child.kill("SIGTERM");
  expect(await agent.exited).toBe(0);
  await until("nobody makes it any more", () => !isAlive(pid));
});

test("while its engine starts: which the next one gets", async () => {
  await startNode();
  const template = { env: { START_WHEN: gate } };
  const ran = join(nodeDir, "ran");
  const taskId = send([["touch", ran]], { template });
  await until("its engine is starting", () => enginesOf(nodeDir).length > 0);
  await cancel(taskId);
  writeFileSync(gate, "");
  await expectNothingLeft(taskId, ran, [[], { template }]);
  expect(enginesOf(nodeDir).length).toBeLessThanOrEqual(2);
});

test("while its plan is fetched", async () => {
  await startNode();
  const ran = join(nodeDir, "ran");
  plane.plans.set("plan_9", Buffer.from(JSON.stringify([["touch", ran]])));
  let open: () => void = () => undefined;
  plane.plansOpen = new Promise((resolve) => {
    open = resolve;
  });
  const taskId = send([], { run: { plan: null, planId: "plan_9" } });
  await until("the plan is asked for", () => plane.plansAsked.includes("plan_9"));
  await cancel(taskId);
  open();
  await expectNothingLeft(taskId, ran, [[]]);
});
