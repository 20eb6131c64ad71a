import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { assign, type FreeNode, keysPerRun, type LeasableJob, prefetchTasks } from "./assign.ts";

const idle = { byUser: new Map<string, number>(), byJob: new Map<string, number>() };
const node = (over: Partial<FreeNode> = {}): FreeNode => ({ nodeId: "node_a", slots: 4, usedSlots: 0, ...over });
const many = (over: Partial<LeasableJob> = {}): LeasableJob => ({
  jobId: "job_many",
  user: "ann",
  priority: 50,
  mode: "many",
  kind: "query",
  parentId: null,
  attempt: 0,
  queued: 100,
  taskMs: undefined,
  ...over,
});
const single = (over: Partial<LeasableJob> = {}) => many({ jobId: "job_single", mode: "single", queued: 1, ...over });
const countOf = (given: ReturnType<typeof assign>, jobId: string) =>
  given.filter((one) => one.jobId === jobId).reduce((sum, one) => sum + one.count, 0);

describe("sharing out the room of a cluster", () => {
  it("fills the free slots, and no more, with tasks of unknown length", () => {
    expect(countOf(assign([node({ usedSlots: 1 })], [many()], idle), "job_many")).toBe(3);
  });

  it("sends short tasks ahead, as many as are done within 150 ms", () => {
    expect(prefetchTasks(2, 10)).toBe(30);
    expect(prefetchTasks(2, 1_000)).toBe(0);
    expect(countOf(assign([node({ slots: 2 })], [many({ taskMs: 10 })], idle), "job_many")).toBe(32);
  });

  it("gives users equal shares, whatever the number of their jobs", () => {
    const jobs = [
      many({ jobId: "job_1" }),
      many({ jobId: "job_2" }),
      many({ jobId: "job_3" }),
      many({ jobId: "job_4", user: "bob" }),
    ];
    expect(countOf(assign([node({ slots: 8 })], jobs, idle), "job_4")).toBe(4);
  });

  it("puts a higher priority first", () => {
    const given = assign([node()], [many(), many({ jobId: "job_urgent", user: "ann", priority: 90, queued: 3 })], idle);
    expect(countOf(given, "job_urgent")).toBe(3);
    expect(countOf(given, "job_many")).toBe(1);
  });

  it("keeps the node free for a single query whose turn it is, instead of filling it up again", () => {
    const load = { byUser: new Map([["ann", 2]]), byJob: new Map([["job_many", 2]]) };
    expect(assign([node({ usedSlots: 2 })], [many(), single({ user: "bob" })], load)).toEqual([]);
  });

  it("gives a single query a whole empty node", () => {
    const given = assign([node({ usedSlots: 1 }), node({ nodeId: "node_b" })], [single()], idle);
    expect(given).toEqual([
      { nodeId: "node_b", jobId: "job_single", kind: "query", parentId: null, count: 1, slotsPerRun: 4 },
    ]);
  });

  it("gives all keys of a partitioned job to one run on one node, and a share to each of several", () => {
    const keys = many({ mode: "partitioned", kind: "key", parentId: "task_p", queued: 365 });
    expect(assign([node()], [keys], idle).map((one) => one.count)).toEqual([365]);
    const both = assign([node(), node({ nodeId: "node_b" })], [keys], idle);
    expect(both.map((one) => one.nodeId).sort()).toEqual(["node_a", "node_b"]);
    expect(both.reduce((sum, one) => sum + one.count, 0)).toBe(365);
  });

  it("tries keys in small runs after a crash, then alone", () => {
    expect([0, 1, 2].map((attempt) => keysPerRun(80, 1, attempt))).toEqual([80, 10, 1]);
  });

  it("never gives out more than there is, and never leaves room and work side by side", () => {
    const arbitrary = fc.record({
      nodes: fc.array(fc.record({ slots: fc.integer({ min: 1, max: 8 }), usedSlots: fc.integer({ min: 0, max: 8 }) }), {
        minLength: 1,
        maxLength: 5,
      }),
      jobs: fc.array(
        fc.record({
          queued: fc.integer({ min: 1, max: 20 }),
          priority: fc.integer({ min: 0, max: 100 }),
          user: fc.constantFrom("ann", "bob"),
        }),
        { maxLength: 5 },
      ),
    });
    fc.assert(
      fc.property(arbitrary, ({ nodes, jobs }) => {
        const free = nodes.map((one, index) => ({ ...one, nodeId: `node_${index}` }));
        const work = jobs.map((one, index) => many({ ...one, jobId: `job_${index}` }));
        const given = assign(free, work, idle);
        const room = free.reduce((sum, one) => sum + Math.max(0, one.slots - one.usedSlots), 0);
        const queued = work.reduce((sum, one) => sum + one.queued, 0);
        const total = given.reduce((sum, one) => sum + one.count, 0);
        return total === Math.min(room, queued) && work.every((job) => countOf(given, job.jobId) <= job.queued);
      }),
    );
  });
});
