import { pino } from "pino";
import { expect, it, vi } from "vitest";
import type { Allotment } from "../domain/assign.ts";
import type { Leasable, LeasedTask } from "./deps.ts";
import { type DispatchDeps, makeDispatchState, wake } from "./fill.ts";
import { addLink, expectLink, type Link } from "./links.ts";

/** A machine under load takes its time. */
const DEADLINE = { timeout: 20_000 };

const job = (over: Partial<Leasable>): Leasable => ({
  jobId: "job_a",
  user: "ann",
  priority: 50,
  mode: "many",
  kind: "query",
  parentId: null,
  attempt: 0,
  queued: 1,
  waitedMs: 1,
  tasksRunningMax: null,
  progress: { ordinal: 0, tasksTotal: 100 },
  ...over,
});
const task = (jobId: string, number: number) =>
  ({
    id: `task_${jobId}_${number}`,
    job_id: jobId,
    mode: "many",
    kind: "query",
    sealed_plan: null,
    manifest: null,
  }) as LeasedTask;

/** A cluster of one node with these slots, and jobs with so many tasks that can be leased right now, whatever they say is queued. */
function cluster(slots: number, jobs: readonly Leasable[], there: Readonly<Record<string, number>>) {
  const left = new Map(Object.entries(there));
  const leaseTasks = async (_: unknown, { allotments }: { allotments: readonly Allotment[] }) => {
    const leased = allotments.flatMap(({ jobId, count }) => {
      const has = left.get(jobId) ?? 0;
      left.set(jobId, Math.max(0, has - count));
      return Array.from({ length: Math.min(has, count) }, (_, number) => task(jobId, number));
    });
    // As the database gives them.
    return leased.sort((one, other) => (one.job_id < other.job_id ? -1 : 1));
  };
  const listLeasable = async () => jobs.filter(({ jobId }) => (left.get(jobId) ?? 0) > 0);
  const sent: string[] = [];
  const deps = {
    db: { leasing: { listLeasable, leaseTasks } },
    changes: { notify: () => undefined },
    settings: { leaseTtlMs: 1_000 },
    templates: { of: async (jobId: string) => ({ jobId, user: "ann" }) },
    log: pino({ level: "silent" }),
  } as unknown as DispatchDeps;
  const state = makeDispatchState(deps);
  const link: Link = {
    nodeId: "node",
    clusterId: "cl",
    workspaceId: "ws",
    shapeHash: "shape",
    slots,
    send: (message) =>
      void (message.type === "lease" && sent.push(...message.batch.runs.map(() => message.batch.template.jobId))),
  };
  expectLink(state.links, link);
  addLink(state.links, link);
  return { state, sent };
}

it("gives others what a job was to have and did not need, at once: what runs of it counts as open", async () => {
  const { state, sent } = cluster(8, [job({ priority: 60, queued: 7 }), job({ jobId: "job_b", queued: 100 })], {
    job_a: 1,
    job_b: 100,
  });
  wake(state, "cl");
  await vi.waitFor(() => expect(state.filling.size).toBe(0), DEADLINE);
  expect(Object.groupBy(sent, (id) => id)).toMatchObject({ job_a: { length: 1 }, job_b: { length: 7 } });
});

it("sends in the order of the turns, in whatever order the database gives the tasks", async () => {
  const jobs = [job({ jobId: "job_z", priority: 60 }), job({ jobId: "job_a" })];
  const { state, sent } = cluster(2, jobs, { job_a: 1, job_z: 1 });
  wake(state, "cl");
  await vi.waitFor(() => expect(sent).toEqual(["job_z", "job_a"]), DEADLINE);
});
