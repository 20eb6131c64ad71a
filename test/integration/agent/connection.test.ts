import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type AgentProcess,
  endNode,
  enginesOf,
  type lease,
  makeNodeDir,
  outcomeOf,
  PATIENT,
  sendLease,
  startAgent,
  until,
  untilHello,
  untilStarted,
} from "./agent-process.ts";
import { type FakeControlPlane, startFakeControlPlane } from "./fake-control-plane.ts";

let plane: FakeControlPlane;
let nodeDir: string;
let agents: AgentProcess[];

beforeEach(async () => {
  plane = await startFakeControlPlane();
  nodeDir = makeNodeDir();
  agents = [];
});

afterEach(() => endNode(plane, nodeDir, agents));

async function startNode(env: Record<string, string> = {}): Promise<AgentProcess> {
  const hellos = count("hello");
  const agent = startAgent(plane, nodeDir, env);
  agents.push(agent);
  await untilHello(plane, agent, hellos + 1);
  return agent;
}

function count(type: string): number {
  return plane.heard.filter((message) => message.type === type).length;
}

const outcome = (taskId: string) => outcomeOf(plane, taskId);

const send = (...args: Parameters<typeof lease>) => sendLease(plane, ...args);

const started = (taskId: string) => untilStarted(plane, taskId);

const spooled = () => readdirSync(join(nodeDir, "spool")).filter((name) => name.endsWith(".json"));
const lastHello = () => plane.heard.findLast((message) => message.type === "hello");

test("a task outlives its connection, and its outcome comes over the next one", async () => {
  await startNode(PATIENT);
  const gate = join(nodeDir, "gate");
  const leased = send([["wait-for", gate]]);
  await started(leased.taskId);
  plane.disconnect();
  await until("another connection", () => count("hello") === 2);
  expect(lastHello()).toEqual({ type: "hello", holding: [{ taskId: leased.taskId, attempt: 1 }] });
  writeFileSync(gate, "");
  expect((await outcome(leased.taskId)).outcome.kind).toBe("succeeded");
});

test("an outcome that is not acknowledged is kept on disk, survives the agent, and is dropped when it is", async () => {
  const agent = await startNode();
  plane.acknowledging = false;
  const leased = send([]);
  await outcome(leased.taskId);
  await until("it is spooled", () => spooled().length === 1);
  agent.child.kill("SIGKILL");
  await agent.exited;

  plane.heard.length = 0;
  plane.acknowledging = true;
  const next = await startNode();
  expect(lastHello()).toEqual({ type: "hello", holding: [{ taskId: leased.taskId, attempt: 1 }] });
  expect((await outcome(leased.taskId)).outcome.kind).toBe("succeeded");
  await until("the spool is empty", () => spooled().length === 0);
  // The same node: it did not join again, and holds nothing more.
  expect(plane.joins).toHaveLength(1);
  await until("a heartbeat that holds nothing", () => {
    const beat = plane.heard.findLast((message) => message.type === "heartbeat");
    return beat?.type === "heartbeat" && beat.holding.length === 0;
  });
  expect(next.child.exitCode).toBeNull();
});

test("on a working connection nothing is written to disk for a task", async () => {
  await startNode();
  for (let at = 0; at < 20; at += 1) await outcome(send([]).taskId);
  // On a machine that stands still for a moment one is, until it is acknowledged.
  await until("nothing is there", () => readdirSync(join(nodeDir, "spool")).length === 0);
});

test("an outcome that the control plane refuses as late is dropped", async () => {
  await startNode();
  plane.accepting = false;
  await outcome(send([]).taskId);
  const beats = count("heartbeat");
  await until("two more heartbeats", () => count("heartbeat") >= beats + 2);
  expect(plane.heard.findLast((message) => message.type === "heartbeat")).toMatchObject({ holding: [] });
  expect(spooled()).toEqual([]);
});

test("an attempt that a heartbeat calls lost is ended, and nothing more is said of it", async () => {
  await startNode();
  const leased = send([["wait-for", join(nodeDir, "never")]]);
  await started(leased.taskId);
  const before = enginesOf(nodeDir);
  plane.lost = [{ taskId: leased.taskId, attempt: 1 }];
  await until("its engine is gone", () => before.every((pid) => !enginesOf(nodeDir).includes(pid)));
  plane.lost = [];
  expect((await outcome(send([]).taskId)).outcome.kind).toBe("succeeded");
  expect(plane.finished(leased.taskId)).toBeUndefined();
});

test("a staged output whose answer was lost is offered again over the next connection", async () => {
  await startNode(PATIENT);
  plane.onStaged = "silent";
  const leased = send([["stage", 5]]);
  await until("it is staged", () => count("staged") === 1);
  plane.onStaged = "publish";
  plane.disconnect();
  expect((await outcome(leased.taskId)).outcome).toMatchObject({ kind: "succeeded", result: { rows: 5 } });
  expect(count("staged")).toBe(2);
});

test("an output that is staged outlives the loss of its lease until the answer tells whether it was fenced", async () => {
  await startNode();
  plane.onStaged = "silent";
  const leased = send([["stage", 5]]);
  await until("it is staged", () => count("staged") === 1);
  plane.lost = [{ taskId: leased.taskId, attempt: 1 }];
  const beats = count("heartbeat");
  await until("it was called lost", () => count("heartbeat") >= beats + 3);
  plane.lost = [];
  plane.onStaged = "publish";
  plane.disconnect();
  expect((await outcome(leased.taskId)).outcome).toMatchObject({ kind: "succeeded", result: { rows: 5 } });
});

test("a connection on which no heartbeat is answered is given up for another", async () => {
  await startNode();
  plane.beating = false;
  await until("another connection", () => plane.connections >= 2);
});

test("what does not fit into a heartbeat's frame goes by HTTP", async () => {
  await startNode();
  const leased = send([["wait-for", join(nodeDir, "never")]], { tasks: 2_000, run: { slots: 2 } });
  await started(leased.taskId);
  await until("a full heartbeat", () => {
    const beat = plane.heard.findLast((message) => message.type === "heartbeat");
    return beat?.type === "heartbeat" && beat.holding.length === 2_000;
  });
  plane.disconnect();
  await until("another connection", () => count("hello") === 2);
  expect(plane.largestFrameBytes).toBeLessThanOrEqual(64 * 1024);
});

test("a drain lets what runs finish, gives back what waits, and ends with 0", async () => {
  const agent = await startNode();
  const gate = join(nodeDir, "gate");
  const running = send([["wait-for", gate]], { run: { slots: 2 } });
  const waiting = send([]);
  await started(running.taskId);
  plane.send({ type: "drain" });
  expect((await outcome(waiting.taskId)).outcome).toEqual({ kind: "released" });
  const late = send([]);
  expect((await outcome(late.taskId)).outcome).toEqual({ kind: "released" });
  writeFileSync(gate, "");
  expect((await outcome(running.taskId)).outcome.kind).toBe("succeeded");
  expect(await agent.exited).toBe(0);
  expect(enginesOf(nodeDir)).toEqual([]);
});

test("asked to end, the agent gives back what does not finish within the bound", async () => {
  const agent = await startNode({ FRAZIL_DRAIN_MS: "200" });
  const leased = send([["spin", null]]);
  await started(leased.taskId);
  agent.child.kill("SIGTERM");
  expect((await outcome(leased.taskId)).outcome).toEqual({ kind: "released" });
  expect(await agent.exited).toBe(0);
  expect(enginesOf(nodeDir)).toEqual([]);
});

test("asked again and again by its cloud, the agent still lets running tasks finish", async () => {
  const gate = join(nodeDir, "gate");
  const agent = await startNode();
  const leased = send([["wait-for", gate]]);
  await started(leased.taskId);
  agent.child.kill("SIGTERM");
  await until("it drains", () => agent.output().includes("draining"));
  agent.child.kill("SIGTERM");
  await until("it was asked again", () => agent.output().split("asked to end").length === 3);
  writeFileSync(gate, "");
  expect((await outcome(leased.taskId)).outcome.kind).toBe("succeeded");
  expect(await agent.exited).toBe(0);
});

test("asked twice by a person, the agent ends at once and leaves no engine", async () => {
  const agent = await startNode();
  await started(send([["spin", null]]).taskId);
  agent.child.kill("SIGINT");
  await until("it drains", () => agent.output().includes("draining"));
  agent.child.kill("SIGINT");
  expect(await agent.exited).toBe(0);
  await until("no engine is left", () => enginesOf(nodeDir).length === 0);
});

test("an agent that is killed leaves no engine and nothing that one started, and the next one is the same node", async () => {
  const agent = await startNode();
  await started(send([["spin", null]]).taskId);
  await started(
    send([
      ["python", true],
      ["child", null],
      ["wait-for", join(nodeDir, "never")],
    ]).taskId,
  );
  const records = join(nodeDir, "engines");
  await until("both are recorded", () => existsSync(records) && readdirSync(records).length === 2);
  await until("the child runs", () => plane.lines.length === 1);
  agent.child.kill("SIGKILL");
  await agent.exited;
  await until("both engines and the child are gone", () => enginesOf(nodeDir).length === 0);
  await until("their records are gone", () => readdirSync(records).length === 0);
  await startNode();
  expect(lastHello()).toEqual({ type: "hello", holding: [] });
});

test.each([401, 404])("a node whose token is refused with %i ends itself", async (status) => {
  const agent = await startNode();
  await outcome(send([]).taskId);
  plane.refuseWith = status;
  plane.disconnect();
  expect(await agent.exited).toBe(2);
  expect(enginesOf(nodeDir)).toEqual([]);
});

test("a node whose join token is refused ends itself", async () => {
  plane.refuseWith = 401;
  const agent = startAgent(plane, nodeDir);
  agents.push(agent);
  expect(await agent.exited).toBe(2);
});

test("a node that hears nothing for too long ends itself, and keeps its outcomes", async () => {
  const agent = await startNode({ FRAZIL_ABANDONED_AFTER_MS: "1000" });
  plane.acknowledging = false;
  await outcome(send([]).taskId);
  plane.refuseWith = 503;
  plane.disconnect();
  expect(await agent.exited).toBe(3);
  expect(spooled()).toHaveLength(1);
  expect(enginesOf(nodeDir)).toEqual([]);
});

test("faults of the environment are told all at once", async () => {
  const agent = startAgent(plane, nodeDir, { FRAZIL_ADDRESS: "nowhere", FRAZIL_DRAIN_MS: "soon" });
  agents.push(agent);
  expect(await agent.exited).toBe(1);
  expect(agent.output()).toMatch(/FRAZIL_ADDRESS: .*FRAZIL_DRAIN_MS: /);
});
