import type { Job } from "@frazil/contracts";
import { bootstrap } from "@frazil/control-plane";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type Api, openApi } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane } from "../../harness/control-plane.ts";
import { type HeldTask, type LightNode, type LightNodeOptions, startLightNode } from "../../harness/light-node.ts";
import { manyFrames, oneQuery } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

/** What a loaded machine may add to a second that is promised. */
const SLACK_MS = 700;

let first: TestControlPlane;
let second: TestControlPlane;
let ann: Api;
let bob: Api;
const open: LightNode[] = [];
beforeAll(async () => {
  first = await startTestControlPlane();
  second = await startTestControlPlane({ beside: first });
  ann = first.api;
  bob = await bobOf("mine");
});
const bobOf = async (workspace: string) => {
  const made = await bootstrap(first.plane.deps.pool, first.config.home, { workspace, user: "bob", token: undefined });
  return openApi(first.address, made.token);
};
afterEach(async () => {
  for (const node of open.splice(0)) node.stop();
});
afterAll(async () => {
  await second.close();
  await first.close();
});

/** A cluster whose nodes are light ones, connected to both control planes in turn. */
async function lightCluster(
  cpus: number,
  size: number,
  over: Pick<LightNodeOptions, "taskMs" | "onChange"> & { readonly api?: Api },
) {
  const warm = await first.warmCluster({ cpus, clusterSize: size, api: over.api ?? ann });
  const nodes: LightNode[] = [];
  for (const [at, node] of warm.nodes.entries()) {
    await node.disconnect();
    const { address } = at % 2 === 0 ? first : second;
    nodes.push(startLightNode({ addresses: [address], nodeId: node.id, nodeToken: node.token, slots: cpus, ...over }));
  }
  open.push(...nodes);
  await waitUntil("the nodes are connected", () => nodes.every((node) => node.isUp()));
  return { clusterId: warm.clusterId, nodes };
}

const submitFrames = (api: Api, clusterId: string, count: number, over: object = {}) =>
  api.submit(
    manyFrames(
      ["a plan"],
      Array.from({ length: count }, () => 0),
      { context: null, clusterId, ...over },
    ),
  );
const begunOf = (nodes: readonly LightNode[]) => nodes.reduce((sum, node) => sum + node.counts.begun, 0);

/** Submits a query, and resolves to the time until it has begun. */
async function timeToBegin(api: Api, clusterId: string, begun: Map<string, number>): Promise<number> {
  const startedAt = performance.now();
  const { id } = await api.submit(oneQuery({ context: null, clusterId }));
  await waitUntil("the query has begun", () => begun.has(id));
  await api.ended(id);
  return (begun.get(id) as number) - startedAt;
}

function watchBegins() {
  const begun = new Map<string, number>();
  const onChange = (what: string, task: HeldTask) => {
    if (what === "begun" && !begun.has(task.jobId)) begun.set(task.jobId, performance.now());
  };
  return { begun, onChange };
}

describe("a single query beside ten thousand tasks of another user", () => {
  it("begins within a second, on one node and on several, whose control planes differ", async () => {
    const { begun, onChange } = watchBegins();
    for (const size of [1, 3]) {
      const { clusterId, nodes } = await lightCluster(2, size, { taskMs: () => 1_000, onChange });
      const many = await submitFrames(ann, clusterId, 10_000);
      await waitUntil("every slot is taken", () => begunOf(nodes) >= 2 * size);
      expect(await timeToBegin(bob, clusterId, begun)).toBeLessThan(1_000 + SLACK_MS);
      await ann.post(`/v1/jobs/${many.id}/cancel`);
    }
  });

  it("begins within a second, also when tasks that were sent ahead take a thousand times longer than those before them", async () => {
    const { begun, onChange } = watchBegins();
    let taskMs = 1;
    const { clusterId, nodes } = await lightCluster(2, 1, { taskMs: () => taskMs, onChange });
    const many = await submitFrames(ann, clusterId, 10_000);
    await waitUntil("tasks are sent ahead", () => (nodes[0] as LightNode).held.size > 100);
    taskMs = 1_000;
    const deep = await waitUntil("the node has a queue of long ones", () => {
      const held = [...(nodes[0] as LightNode).held.values()];
      return held.filter((task) => task.begunAtMs === undefined).length > 50 && held.length;
    });
    expect(deep).toBeGreaterThan(50);
    expect(await timeToBegin(bob, clusterId, begun)).toBeLessThan(1_000 + 150 + SLACK_MS);
    expect((nodes[0] as LightNode).counts.returned).toBeGreaterThan(50);
    // What was given back is done later, and cost no attempt.
    const returned = await first.sql<{ spare: number }>(
      "SELECT attempts_max - attempt AS spare FROM tasks WHERE job_id = $1 AND attempt > 0 AND status = 'queued'",
      [many.id],
    );
    expect(returned.length).toBeGreaterThan(50);
    expect(new Set(returned.map((row) => row.spare))).toEqual(new Set([4]));
    await ann.post(`/v1/jobs/${many.id}/cancel`);
  });
});

describe("the limit of a workspace", () => {
  // Nothing that another test left counts against it.
  let owner: Api;
  let guest: Api;
  beforeAll(async () => {
    owner = first.stranger;
    guest = await bobOf("others");
  });
  const setLimit = (max: number | null) => owner.request("PATCH", "/v1/workspace", { body: { tasksRunningMax: max } });
  afterEach(() => setLimit(null));

  it("is never passed, by any cluster or control plane, and users share what it allows", async () => {
    let held = 0;
    let heldMax = 0;
    const byUser = new Map<string, number>();
    const onChange = (what: string, task: HeldTask) => {
      if (what === "begun") return;
      held += what === "leased" ? 1 : -1;
      heldMax = Math.max(heldMax, held);
      if (what === "finished") byUser.set(task.user, (byUser.get(task.user) ?? 0) + 1);
    };
    await setLimit(5);
    const clusters = [
      await lightCluster(4, 2, { taskMs: () => 200, onChange, api: owner }),
      await lightCluster(4, 2, { taskMs: () => 200, onChange, api: owner }),
    ] as const;
    // Ann's are on both clusters, Bob's on one.
    const jobs = [
      await submitFrames(owner, clusters[0].clusterId, 20),
      await submitFrames(owner, clusters[1].clusterId, 20),
      await submitFrames(guest, clusters[1].clusterId, 20),
    ];
    await waitUntil("Bob's are done", async () => (await guest.job((jobs[2] as Job).id)).finishedAt !== null, 25_000);
    const shares = [...byUser.values()];
    expect(heldMax).toBe(5);
    // Equal shares: Ann has done about as much as Bob by then, on both clusters together.
    expect(Math.max(...shares)).toBeLessThan(2 * Math.min(...shares));
    await Promise.all(jobs.map((job) => owner.post(`/v1/jobs/${job.id}/cancel`)));
  });

  it("is said in the phase of a job that waits for it, a single query too, until it is raised", async () => {
    const { begun, onChange } = watchBegins();
    const { clusterId, nodes } = await lightCluster(2, 2, { taskMs: () => 60_000, onChange, api: owner });
    await setLimit(1);
    const holds = await submitFrames(owner, clusterId, 1);
    await waitUntil("it runs", () => begunOf(nodes) === 1);
    const { id } = await guest.submit(oneQuery({ context: null, clusterId }));
    const phase = () => guest.job(id).then((job) => job.phase);
    await waitUntil("it waits", async () => (await phase()) === "waiting: the workspace runs its 1 tasks");
    expect(await guest.get("/v1/workspace")).toMatchObject({ tasksRunningMax: 1, tasksRunning: 1 });
    await setLimit(2);
    await waitUntil("it begins", () => begun.has(id));
    for (const job of [holds.id, id]) await owner.post(`/v1/jobs/${job}/cancel`);
  });
});

describe("cancelling a job with very many tasks", () => {
  it("reaches its engines at once, and lets others submit, lease and record meanwhile", async () => {
    const cancelled: number[] = [];
    let cancelledAt = Number.POSITIVE_INFINITY;
    const mine = await lightCluster(4, 1, {
      taskMs: () => 600_000,
      onChange: (what) => void (what === "given back" && cancelled.push(performance.now() - cancelledAt)),
    });
    const theirs = await lightCluster(4, 1, { taskMs: () => 5 });
    const big = await submitFrames(ann, mine.clusterId, 20_000);
    await waitUntil("its slots are taken", () => begunOf(mine.nodes) === 4);
    const other = await submitFrames(bob, theirs.clusterId, 10_000);
    cancelledAt = performance.now();
    let isOver = false;
    const cancelling = ann.post<Job>(`/v1/jobs/${big.id}/cancel`).finally(() => {
      isOver = true;
    });
    let longestMs = 0;
    let doneBefore = begunOf(theirs.nodes);
    while (!isOver) {
      const askedAt = performance.now();
      await waitUntil("the other job goes on", () => isOver || begunOf(theirs.nodes) > doneBefore);
      doneBefore = begunOf(theirs.nodes);
      longestMs = Math.max(longestMs, performance.now() - askedAt);
    }
    const done = await cancelling;
    expect(done).toMatchObject({ status: "cancelled", counts: { total: 20_000, cancelled: 20_000, running: 0 } });
    await waitUntil("its engines have stopped", () => cancelled.length === 4);
    expect(Math.max(...cancelled)).toBeLessThan(1_000);
    expect(longestMs).toBeLessThan(2_000);
    const left = await first.sql("SELECT 1 FROM tasks WHERE job_id = $1 AND status <> 'cancelled'", [big.id]);
    expect(left).toEqual([]);
    await bob.post(`/v1/jobs/${other.id}/cancel`);
  });

  it("is finished by any other control plane when the one that was asked dies in between", async () => {
    const { clusterId } = await lightCluster(1, 1, { taskMs: () => 600_000 });
    const { id } = await submitFrames(ann, clusterId, 5_000);
    // All that a control plane leaves that dies right after it was asked.
    await first.sql("UPDATE jobs SET cancel_requested_at = now() WHERE id = $1", [id]);
    expect(await ann.ended(id)).toMatchObject({ status: "cancelled", counts: { cancelled: 5_000 } });
  });
});
