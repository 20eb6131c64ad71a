import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Allotment,
  cutTo,
  type FreeNode,
  groupOf,
  keysPerRun,
  type LeasableJob,
  type Load,
  prefetchTasks,
  assign as share,
} from "./assign.ts";

const idle: Load = {
  byUser: new Map(),
  byJob: new Map(),
  servedMsAgo: new Map(),
  tasksLeft: Number.POSITIVE_INFINITY,
};
const assign = (nodes: readonly FreeNode[], jobs: readonly LeasableJob[], load: Partial<Load>) =>
  share(nodes, jobs, { ...idle, ...load }).allotments;
const node = (over: Partial<FreeNode> = {}): FreeNode => ({
  nodeId: "node_a",
  slots: 4,
  usedSlots: 0,
  emptyInMs: 0,
  ...over,
});
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
  waitedMs: 0,
  elsewhere: false,
  ...over,
});
const single = (over: Partial<LeasableJob> = {}) => many({ jobId: "job_single", mode: "single", queued: 1, ...over });
const countOf = (given: readonly Allotment[], jobId: string) =>
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
        const free = nodes.map((one, index) => node({ ...one, nodeId: `node_${index}` }));
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

describe("a node that is kept for a run that takes it whole", () => {
  const busy = (nodeId: string, emptyInMs: number, over: Partial<FreeNode> = {}) =>
    node({ nodeId, usedSlots: 4, emptyInMs, ...over });
  const waiting = single({ user: "bob" });
  const load = { ...idle, byUser: new Map([["ann", 12]]), byJob: new Map([["job_many", 12]]) };

  it("is the one that will be empty first, however much was sent ahead of its slots", () => {
    const nodes = [busy("node_a", 600_000), busy("node_b", 150, { usedSlots: 60 }), busy("node_c", 1_000)];
    expect(share(nodes, [many({ taskMs: 5 }), waiting], load).reserved).toEqual(["node_b"]);
  });

  it("is one of several: the others go on", () => {
    const nodes = [busy("node_a", 10, { usedSlots: 3 }), busy("node_b", 500, { usedSlots: 2 })];
    const given = share(nodes, [many(), waiting], load);
    expect(given.reserved).toEqual(["node_a"]);
    expect(given.allotments.map(({ nodeId, count }) => [nodeId, count])).toEqual([["node_b", 2]]);
  });

  it("counts as its user's: a hundred single queries of one user do not keep every node", () => {
    const nodes = ["a", "b", "c", "d"].map((name) => busy(`node_${name}`, 100));
    const singles = Array.from({ length: 100 }, (_, index) => single({ user: "bob", jobId: `job_${index}` }));
    const even = { ...idle, byUser: new Map([["ann", 7]]), byJob: new Map([["job_many", 7]]) };
    expect(share(nodes, [many(), ...singles], even).reserved.length).toBe(2);
  });
});

describe("what is sent ahead of free slots", () => {
  it("does not keep out a job whose tasks are longer, or of unknown length", () => {
    const nodes = [node({ slots: 2, usedSlots: 2 + 40 })];
    const load = { ...idle, byUser: new Map([["ann", 42]]), byJob: new Map([["job_many", 42]]) };
    const other = many({ jobId: "job_other", user: "bob", taskMs: undefined });
    const given = share(nodes, [many({ taskMs: 1 }), other], load);
    expect(given.allotments).toEqual([]);
    const later = share([node({ slots: 2, usedSlots: 1 })], [many({ taskMs: 1 }), other], load);
    expect(countOf(later.allotments, "job_other")).toBe(1);
  });
});

describe("the limit of a workspace", () => {
  it("is not passed, and names the jobs that it keeps from free slots", () => {
    const given = share(
      [node({ slots: 8 })],
      [many(), many({ jobId: "job_b", user: "bob" }), single({ user: "eve" })],
      {
        ...idle,
        byUser: new Map([["eve", 9]]),
        tasksLeft: 2,
      },
    );
    expect([countOf(given.allotments, "job_many"), countOf(given.allotments, "job_b")]).toEqual([1, 1]);
    expect(given.limited).toEqual([]);
    const none = share([node({ slots: 8 })], [many(), single({ user: "bob" })], { ...idle, tasksLeft: 0 });
    expect(none).toMatchObject({ allotments: [], limited: ["job_many", "job_single"] });
  });

  it("is shared with users who wait in other clusters, by the same turns", () => {
    const rival = many({ jobId: "rival", user: "bob", queued: 1, elsewhere: true });
    const mine = { ...idle, byUser: new Map([["ann", 5]]), byJob: new Map([["job_many", 5]]), tasksLeft: 1 };
    expect(share([node({ slots: 8 })], [many(), rival], mine)).toMatchObject({ allotments: [], yieldedTo: ["rival"] });
    const theirs = { ...mine, byUser: new Map([["bob", 5]]), byJob: new Map() };
    expect(share([node({ slots: 8 })], [many(), rival], theirs)).toMatchObject({ yieldedTo: [] });
  });

  it("cuts keys of one run too", () => {
    const keys = many({ mode: "partitioned", kind: "key", parentId: "task_p", queued: 365 });
    expect(countOf(share([node()], [keys], { ...idle, tasksLeft: 10 }).allotments, "job_many")).toBe(10);
    const given = [
      { nodeId: "n", jobId: "a", kind: "query", parentId: null, count: 3, slotsPerRun: 1 },
      { nodeId: "n", jobId: "b", kind: "query", parentId: null, count: 3, slotsPerRun: 1 },
    ] as const;
    expect(cutTo(given, 4).map((one) => one.count)).toEqual([3, 1]);
    expect(cutTo(given, 0)).toEqual([]);
  });
});

interface SimJob {
  readonly id: string;
  readonly user: string;
  readonly priority: number;
  readonly taskMs: number;
  readonly isSingle: boolean;
  queued: number;
  running: number;
  leasedAtMs: number;
  /** When it last had a slot. */
  hadAtMs: number;
  longestMs: number;
}

/** Runs jobs on one cluster by a clock of its own: every free slot is shared out by `assign`, as the dispatcher does it. */
function simulate(jobs: SimJob[], slots: number, untilMs: number): string[] {
  const served = new Map<string, number>();
  const ends: { atMs: number; job: SimJob; slots: number }[] = [];
  const order: string[] = [];
  for (let nowMs = 0; nowMs < untilMs; ) {
    const inUse = ends.reduce((sum, end) => sum + end.slots, 0);
    const counts = (of: (job: SimJob) => string) => {
      const sums = new Map<string, number>();
      for (const end of ends) sums.set(of(end.job), (sums.get(of(end.job)) ?? 0) + end.slots);
      return sums;
    };
    const leasable = jobs.filter((job) => job.queued > 0);
    const given = share(
      [node({ slots, usedSlots: inUse })],
      leasable.map((job) =>
        many({
          jobId: job.id,
          user: job.user,
          priority: job.priority,
          mode: job.isSingle ? "single" : "many",
          queued: job.queued,
          waitedMs: nowMs - job.leasedAtMs,
        }),
      ),
      {
        ...idle,
        byUser: counts((job) => job.user),
        byJob: counts((job) => job.id),
        servedMsAgo: new Map([...served].map(([group, atMs]) => [group, nowMs - atMs])),
      },
    );
    for (const { jobId, count, slotsPerRun } of given.allotments) {
      const job = jobs.find((one) => one.id === jobId) as SimJob;
      if (job.running === 0) job.longestMs = Math.max(job.longestMs, nowMs - job.hadAtMs);
      job.leasedAtMs = nowMs;
      served.set(groupOf(job.user, job.priority), nowMs);
      for (let n = 0; n < count; n++) {
        job.queued -= 1;
        job.running += 1;
        ends.push({ atMs: nowMs + job.taskMs, job, slots: slotsPerRun });
        order.push(jobId);
      }
    }
    ends.sort((a, b) => a.atMs - b.atMs);
    const next = ends.shift();
    if (next === undefined) break;
    next.job.running -= 1;
    next.job.hadAtMs = next.atMs;
    served.set(groupOf(next.job.user, next.job.priority), next.atMs);
    nowMs = next.atMs;
  }
  for (const job of jobs)
    if (job.queued > 0 && job.running === 0) job.longestMs = Math.max(job.longestMs, untilMs - job.hadAtMs);
  return order;
}

const simJob = (over: Partial<SimJob> & Pick<SimJob, "id">): SimJob => ({
  user: "ann",
  priority: 50,
  taskMs: 1_000,
  isSingle: false,
  queued: 1_000_000,
  running: 0,
  leasedAtMs: 0,
  hadAtMs: 0,
  longestMs: 0,
  ...over,
});

describe("priorities", () => {
  it("are kept: the lower job gets a slot as its age demands, and no more", () => {
    const high = simJob({ id: "high", priority: 100, user: "ann" });
    const low = simJob({ id: "low", priority: 0, user: "bob" });
    const order = simulate([high, low], 4, 3_600_000);
    const share = order.filter((id) => id === "low").length;
    // An hour has twelve times five minutes.
    expect(share).toBeGreaterThanOrEqual(10);
    expect(share).toBeLessThanOrEqual(13);
  });

  it("do not let a low job with very long tasks creep over the cluster", () => {
    const high = simJob({ id: "high", priority: 90, user: "ann" });
    const low = simJob({ id: "low", priority: 10, user: "bob", taskMs: 36_000_000 });
    const order = simulate([high, low], 8, 7_200_000);
    expect(order.filter((id) => id === "low")).toHaveLength(1);
  });

  it("do not let a low job take turns with a high one because its tasks are long", () => {
    const high = simJob({ id: "high", priority: 100, user: "ann" });
    const low = simJob({ id: "low", priority: 0, user: "bob", taskMs: 600_000 });
    const order = simulate([high, low], 1, 3_600_000);
    // Five minutes of the one, ten of the other.
    expect(order.filter((id) => id === "low")).toHaveLength(4);
  });

  it("starve nobody: every job gets a slot in five minutes per job of its user and priority, and a task of each that waits longer", () => {
    const arbitrary = fc.record({
      slots: fc.integer({ min: 1, max: 4 }),
      jobs: fc.array(
        fc.record({
          user: fc.constantFrom("ann", "bob", "eve"),
          priority: fc.constantFrom(0, 30, 50, 70, 100),
          taskMs: fc.constantFrom(1_000, 5_000, 20_000),
          isSingle: fc.boolean(),
        }),
        { minLength: 2, maxLength: 6 },
      ),
    });
    fc.assert(
      fc.property(arbitrary, ({ slots, jobs }) => {
        const all = jobs.map((job, index) => simJob({ ...job, id: `job_${index}` }));
        simulate(all, slots, 3_600_000);
        const longestTaskMs = Math.max(...all.map((job) => job.taskMs));
        return all.every((job) => {
          const ofGroup = all.filter((one) => one.user === job.user && one.priority === job.priority).length;
          return job.longestMs <= ofGroup * (303_000 + (all.length + 1) * longestTaskMs);
        });
      }),
      { numRuns: 60 },
    );
  });

  it("give users equal shares of an hour, also of a cluster with one slot, whatever the number of their jobs", () => {
    const jobs = [
      ...Array.from({ length: 5 }, (_, index) => simJob({ id: `a${index}`, user: "ann", isSingle: true })),
      simJob({ id: "b", user: "bob", isSingle: true }),
    ];
    const order = simulate(jobs, 1, 60_000);
    expect(order.filter((id) => id === "b")).toHaveLength(30);
    expect(order).toHaveLength(60);
  });
});
