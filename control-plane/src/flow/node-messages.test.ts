import type { AttemptRef, FromNode } from "@frazil/contracts";
import { expect, it } from "vitest";
import { handleNodeMessage, type NodeDeps } from "./node-messages.ts";
import { makeRecorder } from "./record.ts";

const REPORTS = 3_000;
const node = { id: "node_1" } as Parameters<typeof handleNodeMessage>[1];
const report = (number: number): FromNode => ({
  type: "finished",
  taskId: `task_${number}`,
  attempt: 1,
  outcome: { kind: "released" },
  usage: null,
  openedPython: false,
});

it("a node that finishes faster than the database records gets no more than a bounded number of tasks ahead of it", async () => {
  const database = Promise.withResolvers<void>();
  const freed = new Set<string>();
  const deps = {
    // A database that answers nothing for now; then it knows none of these tasks.
    pool: { transact: () => database.promise.then(() => ({ settled: undefined, live: Array(REPORTS).fill(false) })) },
    db: { sweeps: { sweepAgain: async () => {} } },
    dispatcher: { release: (_: string, attempt: AttemptRef) => void freed.add(attempt.taskId) },
  } as unknown as NodeDeps;
  const handled = { ...deps, recorder: makeRecorder(deps) };
  const answers = Array.from({ length: REPORTS }, (_, number) => handleNodeMessage(handled, node, report(number)));
  // Those that were let go at once, and so replaced while nothing is recorded.
  expect(freed.size).toBeGreaterThan(0);
  expect(freed.size).toBeLessThan(REPORTS / 2);
  database.resolve();
  await Promise.all(answers);
  expect(freed.size).toBe(REPORTS);
});
