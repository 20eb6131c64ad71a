import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Run } from "@frazil/contracts";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type AgentProcess,
  endNode,
  enginesOf,
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

/** Short queries of one job go to an engine together: what becomes of them when one of them ends it. */

let plane: FakeControlPlane;
let nodeDir: string;
let agent: AgentProcess;

beforeEach(async () => {
  plane = await startFakeControlPlane();
  nodeDir = makeNodeDir();
  agent = startAgent(plane, nodeDir, PATIENT);
  await untilHello(plane, agent);
  // From the first answer on the node knows that queries of this job are short.
  await outcome(sendLease(plane, []).taskId);
});

afterEach(() => endNode(plane, nodeDir, [agent]));

const outcome = (taskId: string) => outcomeOf(plane, taskId);
const outcomes = (taskIds: readonly string[]) => Promise.all(taskIds.map(outcome));

type Steps = Parameters<typeof lease>[0];

/** Leases one query for each list of steps, in one message. */
function leaseMany(plans: readonly Steps[], options: Parameters<typeof lease>[1] = {}): string[] {
  return sendTogether(plans.map((steps) => lease(steps, options)));
}

function sendTogether(leases: readonly ReturnType<typeof lease>[]): string[] {
  const runs = leases.map(({ batch }) => batch.runs[0] as Run);
  plane.send({ type: "lease", batch: { template: (leases[0] as (typeof leases)[0]).batch.template, runs } });
  return leases.map(({ taskId }) => taskId);
}

const kindsOf = (messages: readonly FinishedMessage[]) => messages.map(({ outcome: { kind } }) => kind);

/** A step that keeps its engine busy until the file is there. */
const held = (name: string): Steps => [["hold-until", join(nodeDir, name)]];
const release = (name: string) => writeFileSync(join(nodeDir, name), "");
const isHeld = (name: string) => existsSync(join(nodeDir, `${name}.waiting`));

test("all are answered, in their order", async () => {
  const taskIds = leaseMany(Array.from({ length: 200 }, () => []));
  expect(new Set(kindsOf(await outcomes(taskIds)))).toEqual(new Set(["succeeded"]));
});

test("SQL and serialised plans of one job are each run as what they are", async () => {
  const kinds = Array.from({ length: 20 }, (_, at) => (at % 3 === 0 ? "sql" : "dsl"));
  const taskIds = sendTogether(kinds.map((planKind) => lease([["of-kind", planKind]], { run: { planKind } })));
  expect(kindsOf(await outcomes(taskIds))).toEqual(kinds.map(() => "succeeded"));
});

test("only the one that ends its engine fails; the others run on another", async () => {
  const taskIds = leaseMany(Array.from({ length: 12 }, (_, at): Steps => (at === 5 ? [["exit", 7]] : [])));
  const messages = await outcomes(taskIds);
  expect(
    kindsOf(messages)
      .map((kind, at) => (kind === "succeeded" ? "" : `${at} ${kind}`))
      .filter(Boolean),
  ).toEqual(["5 failed"]);
  const failed = messages[5]?.outcome;
  expect(failed).toMatchObject({ error: { code: "engine_lost" }, retryable: true });
  expect(messages.every(({ attempt }) => attempt === 1)).toBe(true);
});

test("only the one that takes too long is timed out", async () => {
  const taskIds = leaseMany([[], [], held("never"), [], [], []], { template: { timeoutMs: 3_000 } });
  const messages = await outcomes(taskIds);
  expect(kindsOf(messages)).toEqual(["succeeded", "succeeded", "failed", "succeeded", "succeeded", "succeeded"]);
  expect(messages[2]?.outcome).toMatchObject({ error: { code: "timed_out" } });
});

test("one that is cancelled before its turn is left out, and its engine is kept", async () => {
  const [first = "", ...rest] = leaseMany([held("gate"), [["touch", join(nodeDir, "trace")]], [], []]);
  await until("the first query runs", () => isHeld("gate"));
  const together = rest[0] as string;
  plane.send({ type: "cancel", tasks: [{ taskId: together, attempt: 1 }] });
  expect((await outcome(together)).outcome.kind).toBe("released");
  release("gate");
  const messages = await outcomes([first, ...rest.slice(1)]);
  expect(new Set(kindsOf(messages))).toEqual(new Set(["succeeded"]));
});

test("one that is cancelled while it runs is ended, and those behind it run on another engine", async () => {
  const [first = "", ...rest] = leaseMany([held("never"), [], [], []]);
  await until("the first query runs", () => isHeld("never"));
  const busy = enginesOf(nodeDir);
  plane.send({ type: "cancel", tasks: [{ taskId: first, attempt: 1 }] });
  const messages = await outcomes(rest);
  expect(kindsOf(messages)).toEqual(["succeeded", "succeeded", "succeeded"]);
  expect((await outcome(first)).outcome.kind).toBe("released");
  await until("its engine is gone", () => busy.some((pid) => !enginesOf(nodeDir).includes(pid)));
});

test("queries with Python, and those with a destination, go alone", async () => {
  for (const template of [
    { hasPython: true },
    { output: { format: "parquet", destination: "/d", mode: "error", options: {}, storageOptions: {} } as const },
  ]) {
    const taskIds = leaseMany(
      [[["exit", 3]], [], []].map((steps) => steps as Steps),
      { template },
    );
    expect(kindsOf(await outcomes(taskIds))).toEqual(["failed", "succeeded", "succeeded"]);
  }
});
