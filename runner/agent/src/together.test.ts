import { QUERIES_PER_RUN_MAX, type Run } from "@frazil/contracts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ActiveRun, TaskState } from "./run-task.ts";
import { chooseTogether, joinRuns, splitOff } from "./together.ts";

interface Differing {
  readonly jobId: string;
  readonly planKind: Run["planKind"];
  readonly hasPython: boolean;
  readonly destination: string;
  readonly plan: string | null;
}

/** What the functions look at of a waiting run of one query. */
function waiting(taskId: string, over: Partial<Differing> = {}): ActiveRun {
  const { jobId = "job_1", planKind = "dsl", hasPython = false, destination = null, plan = "small" } = over;
  const ref = { taskId, attempt: 1, frame: 0, keyToken: null, keyPath: null };
  const task: TaskState = { ref, status: "open", heard: false, logOpen: true };
  return {
    template: { jobId, hasPython, output: { destination } },
    leased: [{ kind: "query", planKind, plan, tasks: [ref], publish: null }],
    ready: true,
    tasks: new Map([[taskId, task]]),
  } as unknown as ActiveRun;
}
const idsOf = (runs: readonly ActiveRun[]) => runs.map((run) => [...run.tasks.keys()].join());
const many = (count: number) => Array.from({ length: count }, (_, at) => waiting(`task_${at}`));

describe("queries that go to an engine together", () => {
  it("are those of one job, in order, as many as take 50 ms", () => {
    const runs = [waiting("a"), waiting("other", { jobId: "job_2" }), waiting("b"), waiting("c"), waiting("d")];
    expect(idsOf(chooseTogether(runs[0] as ActiveRun, runs, 20, 1))).toEqual(["a", "b"]);
    expect(idsOf(chooseTogether(runs[0] as ActiveRun, runs, 1, 1))).toEqual(["a", "b", "c", "d"]);
  });

  it("are all SQL, or all serialised plans", () => {
    const runs = [
      waiting("a"),
      waiting("sql", { planKind: "sql" }),
      waiting("b"),
      waiting("more", { planKind: "sql" }),
    ];
    expect(idsOf(chooseTogether(runs[0] as ActiveRun, runs, 1, 1))).toEqual(["a", "b"]);
    const others = runs.slice(1);
    expect(idsOf(chooseTogether(others[0] as ActiveRun, others, 1, 1))).toEqual(["sql", "more"]);
  });

  it("are shared out among the slots", () => {
    const runs = many(10);
    expect(chooseTogether(runs[0] as ActiveRun, runs, 1, 2)).toHaveLength(5);
    expect(chooseTogether(runs[0] as ActiveRun, runs, 1, 4)).toHaveLength(3);
  });

  it.each([
    ["whose usual time is unknown", {}, undefined],
    ["that take long", {}, 1_000],
    ["with Python", { hasPython: true }, 1],
    ["with a destination", { destination: "/d" }, 1],
    ["whose plans are too large for a lease", { plan: null }, 1],
  ])("are never those %s", (_, over, usualMs) => {
    const runs = [waiting("a", over), waiting("b", over)];
    expect(idsOf(chooseTogether(runs[0] as ActiveRun, runs, usualMs, 1))).toEqual(["a"]);
  });

  it("are never more than an engine takes, begin with the first, and come apart as they were", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 8 }), (count, slots) => {
        const runs = many(count);
        const chosen = chooseTogether(runs[0] as ActiveRun, runs, 0.01, slots);
        expect(chosen[0]).toBe(runs[0]);
        expect(chosen.length).toBeLessThanOrEqual(QUERIES_PER_RUN_MAX);
        const joined = joinRuns(chosen);
        expect([...joined.tasks.keys()]).toEqual(idsOf(chosen));
        const apart = [...joined.tasks.values()].map((task) => splitOff(joined, task));
        expect(idsOf(apart)).toEqual(idsOf(chosen));
        expect(apart.every((run) => run.leased.length === 1)).toBe(true);
      }),
    );
  });
});
