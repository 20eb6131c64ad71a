import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
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
  untilStarted,
} from "./agent-process.ts";
import { type FakeControlPlane, startFakeControlPlane } from "./fake-control-plane.ts";

let plane: FakeControlPlane;
let nodeDir: string;
let agent: AgentProcess;

// One node for all of these tests: whatever befalls a task, the next one finds the node as it was.
beforeAll(async () => {
  plane = await startFakeControlPlane();
  nodeDir = makeNodeDir();
  agent = startAgent(plane, nodeDir, PATIENT);
  await untilHello(plane, agent);
});

afterAll(() => endNode(plane, nodeDir, [agent]));

let gates = 0;
function gatePath(): string {
  gates += 1;
  return join(nodeDir, `gate-${gates}`);
}

const outcome = (taskId: string) => outcomeOf(plane, taskId);

const send = (...args: Parameters<typeof lease>) => sendLease(plane, ...args);

async function failureOf(leased: ReturnType<typeof lease>) {
  const message = await outcome(leased.taskId);
  if (message.outcome.kind !== "failed") throw new Error(JSON.stringify(message));
  return { ...message.outcome.error, retryable: message.outcome.retryable, usage: message.usage };
}

const started = (taskId: string) => untilStarted(plane, taskId);

/** The node has 600 MiB and two slots. */
test("a task that uses more than its share of memory is ended, with the numbers, and its neighbour goes on", async () => {
  const gate = gatePath();
  const neighbour = send([["wait-for", gate]]);
  await started(neighbour.taskId);
  const failed = await failureOf(
    send([
      ["allocate", 400],
      ["wait-for", join(nodeDir, "never")],
    ]),
  );
  expect(failed).toMatchObject({ code: "out_of_memory", retryable: false });
  expect(failed.message).toMatch(/^The task used \d+ MiB of memory; its limit is 300 MiB\.$/);
  expect(failed.usage?.peakMemoryBytes).toBeGreaterThan(300 * 1024 * 1024);
  writeFileSync(gate, "");
  expect((await outcome(neighbour.taskId)).outcome.kind).toBe("succeeded");
  // The whole node's memory is enough for the same thing.
  const whole = send([["allocate", 400]], { run: { slots: 2 } });
  expect((await outcome(whole.taskId)).outcome.kind).toBe("succeeded");
});

test("keys that use too much memory together are each tried again, the last one too: what others left counts", async () => {
  const leased = send(
    [
      ["allocate", 250],
      ["linger", 3_000],
    ],
    { tasks: 3, run: { slots: 2 } },
  );
  const [first, second, third] = leased.taskIds as [string, string, string];
  expect((await outcome(first)).outcome.kind).toBe("succeeded");
  expect((await outcome(second)).outcome.kind).toBe("succeeded");
  const { outcome: found } = await outcome(third);
  expect(found).toMatchObject({ kind: "failed", error: { code: "engine_lost" }, retryable: true });
  expect(JSON.stringify(found)).toMatch(/3 keys that ran together used \d+ MiB of memory; the limit is 600 MiB/);
  // By itself it has what it needs.
  const alone = send(
    [
      ["allocate", 250],
      ["linger", 500],
    ],
    { run: { slots: 2 } },
  );
  expect((await outcome(alone.taskId)).outcome.kind).toBe("succeeded");
});

test("the time of keys that run together is that of one answer", async () => {
  const slow = send([["linger", 1_500]], { tasks: 4, run: { slots: 2 }, template: { timeoutMs: 5_000 } });
  for (const taskId of slow.taskIds) expect((await outcome(taskId)).outcome.kind).toBe("succeeded");
  const never = [["wait-for", join(nodeDir, "never")]] as [string, unknown][];
  const stuck = send(never, { tasks: 2, run: { slots: 2 }, template: { timeoutMs: 300 } });
  for (const taskId of stuck.taskIds)
    expect((await outcome(taskId)).outcome).toMatchObject({
      error: { code: "engine_lost", message: "2 keys that ran together had no answer for 0.3 s, the limit." },
      retryable: true,
    });
});

test("memory of processes that the user's code starts counts too", async () => {
  const leased = send([
    ["python", true],
    ["allocate-in-child", 400],
    ["wait-for", join(nodeDir, "never")],
  ]);
  expect(await failureOf(leased)).toMatchObject({ code: "out_of_memory", retryable: false });
});

test("forks share their pages: many small ones are not taken for one large", async () => {
  // Together 40 forks map some 6 GiB, of which each writes next to nothing.
  const leased = send([
    ["python", true],
    ["allocate", 150],
    ["fork-sleepers", 40],
    ["linger", 600],
  ]);
  expect((await outcome(leased.taskId)).outcome.kind).toBe("succeeded");
});

test("a run past its deadline is ended, and says how long it had", async () => {
  const failed = await failureOf(send([["wait-for", join(nodeDir, "never")]], { template: { timeoutMs: 300 } }));
  expect(failed).toMatchObject({
    code: "timed_out",
    retryable: false,
    message: "The task ran longer than its limit of 0.3 s.",
  });
});

test("a crash in native code names the signal, may be tried again, and takes no other engine with it", async () => {
  const failed = await failureOf(send([["segfault", null]]));
  expect(failed).toMatchObject({ code: "engine_lost", retryable: true });
  expect(failed.message).toContain("SIGSEGV");
  expect(plane.lines.some((line) => line.stream === "stderr" && line.text.includes("Segmentation fault"))).toBe(true);
  expect((await outcome(send([]).taskId)).outcome.kind).toBe("succeeded");
});

test("an engine that ends by itself is told with its exit code, for every task that it had not answered", async () => {
  const leased = send([["exit", 7]], { tasks: 3, run: { slots: 2 } });
  for (const taskId of leased.taskIds) {
    const { outcome: found } = await outcome(taskId);
    expect(found).toMatchObject({ kind: "failed", retryable: true, error: { code: "engine_lost" } });
    expect(found.kind === "failed" && found.error.message).toContain("exit code 7");
  }
});

test("an engine that says what is not its protocol is ended", async () => {
  for (const garbage of [
    "hello, world",
    "\x05\x00\x00\x00\x00\x00\x00\x00[1,2]",
    "\x02\x00\x00\x00\x00\x00\x00\x00{}",
  ]) {
    const failed = await failureOf(send([["garbage", garbage]]));
    expect(failed).toMatchObject({ code: "engine_lost", retryable: true });
    expect(failed.message).toContain("not its protocol");
  }
});

test("a run that ends without an answer for its task fails it", async () => {
  expect(await failureOf(send([["silent", null]]))).toMatchObject({ code: "engine_lost", retryable: true });
});

test("a fork bomb is stopped at a bound, and nothing of it is left", async () => {
  const failed = await failureOf(
    send(
      [
        ["python", true],
        ["fork-sleepers", 700],
        ["wait-for", join(nodeDir, "never")],
      ],
      { run: { slots: 2 } },
    ),
  );
  expect(failed).toMatchObject({ code: "limit_exceeded", retryable: false });
  expect(failed.message).toContain("the limit is 512");
  await until("all of them are gone", () => enginesOf(nodeDir).length < 10);
});

test("a cancelled run is ended at once with everything that it started, also what left its session", async () => {
  const leased = send([
    ["python", true],
    ["child", null],
    ["daemon", null],
    ["wait-for", join(nodeDir, "never")],
  ]);
  const pids = await until("both processes", () => {
    const lines = plane.lines.filter((line) => line.taskId === leased.taskId).map((line) => Number(line.text));
    return lines.length === 2 ? lines : undefined;
  });
  expect(pids.every(isAlive)).toBe(true);
  plane.send({ type: "cancel", tasks: [{ taskId: leased.taskId, attempt: 1 }] });
  expect((await outcome(leased.taskId)).outcome).toEqual({ kind: "released" });
  await until("both are gone", () => !pids.some(isAlive));
});

test("what a run that succeeded leaves behind is ended, also what left its session; its engine goes on", async () => {
  const left = send([
    ["python", true],
    ["child", null],
    ["daemon", null],
  ]);
  const engineOf = async (leased: ReturnType<typeof lease>) => {
    const message = await outcome(leased.taskId);
    // The fake engine answers with its own pid as the number of rows.
    return message.outcome.kind === "succeeded" ? message.outcome.result.rows : message.outcome;
  };
  const engine = await engineOf(left);
  const pids = plane.lines.filter((line) => line.taskId === left.taskId).map((line) => Number(line.text));
  expect(pids).toHaveLength(2);
  await until("both are gone", () => !pids.some(isAlive));
  expect(await engineOf(send([["python", true]]))).toBe(engine);
});

test("cancelling one key of a batch leaves the others be", async () => {
  const gate = gatePath();
  const leased = send([["wait-for", gate]], { tasks: 3, run: { slots: 2 } });
  await started(leased.taskId);
  plane.send({ type: "cancel", tasks: [{ taskId: leased.taskIds[1] as string, attempt: 1 }] });
  expect((await outcome(leased.taskIds[1] as string)).outcome).toEqual({ kind: "released" });
  writeFileSync(gate, "");
  for (const taskId of [leased.taskIds[0], leased.taskIds[2]]) {
    expect((await outcome(taskId as string)).outcome.kind).toBe("succeeded");
  }
  await outcome(send([]).taskId);
  expect(
    plane.heard.filter((message) => message.type === "finished" && message.taskId === leased.taskIds[1]),
  ).toHaveLength(1);
});

test("a cancelled lease that waits never runs, and one that is unknown is given back all the same", async () => {
  const gate = gatePath();
  const first = send([["wait-for", gate]], { run: { slots: 2 } });
  await started(first.taskId);
  const waiting = send([]);
  const unknown = { taskId: "task_unknown", attempt: 3 };
  plane.send({ type: "cancel", tasks: [{ taskId: waiting.taskId, attempt: 1 }, unknown] });
  expect((await outcome(waiting.taskId)).outcome).toEqual({ kind: "released" });
  expect((await outcome("task_unknown")).attempt).toBe(3);
  writeFileSync(gate, "");
  await outcome(first.taskId);
});

test("a recalled lease that waits is given back and never runs, one that runs goes on", async () => {
  const gate = gatePath();
  const first = send([["wait-for", gate]], { run: { slots: 2 } });
  await started(first.taskId);
  const waiting = send([]);
  plane.send({ type: "recall", tasks: [first, waiting].map(({ taskId }) => ({ taskId, attempt: 1 })) });
  expect((await outcome(waiting.taskId)).outcome).toEqual({ kind: "returned" });
  expect(plane.finished(first.taskId)).toBeUndefined();
  writeFileSync(gate, "");
  expect((await outcome(first.taskId)).outcome.kind).toBe("succeeded");
  expect(
    plane.heard.filter((message) => message.type === "finished" && message.taskId === waiting.taskId),
  ).toHaveLength(1);
});
