import type { FromNode } from "@frazil/contracts";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createOutbox, type Outbox } from "./outbox.ts";
import type { FinishedMessage } from "./spool.ts";

let connected: boolean;
let sent: FromNode[];
let disk: Map<string, FinishedMessage>;
let outbox: Outbox;

function finished(taskId: string): FinishedMessage {
  return { type: "finished", taskId, attempt: 1, outcome: { kind: "released" }, usage: null, openedPython: false };
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout", "performance"] });
  connected = true;
  sent = [];
  disk = new Map();
  const spool = {
    save: async (key: string, message: FinishedMessage) => void disk.set(key, message),
    remove: async (key: string) => void disk.delete(key),
  };
  const send = (message: FromNode) => {
    if (connected) sent.push(message);
    return connected;
  };
  outbox = createOutbox({ send, spool, log: pino({ level: "silent" }) }, []);
});
afterEach(() => void vi.useRealTimers());

test("an outcome that is acknowledged soon is sent once and never written down", async () => {
  outbox.finished(finished("task_1"));
  await vi.advanceTimersByTimeAsync(100);
  outbox.settle({ taskId: "task_1", attempt: 1 });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(sent).toHaveLength(1);
  expect(disk.size).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("without a connection an outcome is written down, sent when there is one, and removed when it is acknowledged", async () => {
  connected = false;
  outbox.finished(finished("task_1"));
  await vi.advanceTimersByTimeAsync(500);
  expect([...disk.keys()]).toEqual(["task_1#1"]);
  connected = true;
  outbox.resendAll();
  expect(sent).toEqual([finished("task_1")]);
  outbox.settle({ taskId: "task_1", attempt: 1 });
  await vi.advanceTimersByTimeAsync(0);
  expect(disk.size).toBe(0);
});

test("an outcome that was refused is replaced, on disk too", async () => {
  const refused = finished("task_1");
  const instead: FinishedMessage = {
    ...refused,
    outcome: { kind: "failed", error: { code: "limit_exceeded", message: "too large" }, retryable: false },
  };
  outbox.finished(refused);
  await vi.advanceTimersByTimeAsync(500);
  outbox.replace(instead);
  await vi.advanceTimersByTimeAsync(0);
  expect(sent).toEqual([refused, instead]);
  expect([...disk.values()]).toEqual([instead]);
  outbox.settle({ taskId: "task_1", attempt: 1 });
  await vi.advanceTimersByTimeAsync(0);
  expect(disk.size).toBe(0);
  // Its answer came meanwhile: there is nothing to replace.
  outbox.replace(instead);
  expect(sent).toHaveLength(2);
});

test("what is not answered on a working connection is said again, ever more rarely", async () => {
  outbox.staged({ type: "staged", taskId: "task_1", attempt: 1, manifest: {} });
  await vi.advanceTimersByTimeAsync(60_000);
  // After 5, 10, 20, ... s: at 0, 5, 15 and 35 s.
  expect(sent).toHaveLength(4);
  expect(disk.size).toBe(0);
});

test("an outcome takes the place of the staging that was not answered", () => {
  outbox.staged({ type: "staged", taskId: "task_1", attempt: 1, manifest: {} });
  outbox.finished(finished("task_1"));
  expect(outbox.holding()).toEqual([{ taskId: "task_1", attempt: 1 }]);
  outbox.resendAll();
  expect(sent.map((message) => message.type)).toEqual(["staged", "finished", "finished"]);
});

test("an answer to the staging that comes again does not settle the outcome that took its place", () => {
  outbox.staged({ type: "staged", taskId: "task_1", attempt: 1, manifest: {} });
  outbox.settle({ taskId: "task_1", attempt: 1 }, "staged");
  expect(outbox.size()).toBe(0);
  outbox.finished(finished("task_1"));
  outbox.settle({ taskId: "task_1", attempt: 1 }, "staged");
  expect(outbox.size()).toBe(1);
  outbox.settle({ taskId: "task_1", attempt: 1 });
  expect(outbox.size()).toBe(0);
});

test("starts are told a moment later, together, in messages of bounded size, and not of what is over by then", async () => {
  for (let at = 0; at < 1_000; at += 1) outbox.started([{ taskId: `task_${at}`, attempt: 1 }]);
  await vi.advanceTimersByTimeAsync(10);
  expect(sent).toEqual([]);
  outbox.finished(finished("task_7"));
  outbox.settle({ taskId: "task_7", attempt: 1 });
  await vi.advanceTimersByTimeAsync(30);
  const told = sent.flatMap((message) => (message.type === "started" ? [message.tasks] : []));
  expect(told.map((tasks) => tasks.length)).toEqual([512, 487]);
  expect(told.flat().map((ref) => ref.taskId)).not.toContain("task_7");
});
