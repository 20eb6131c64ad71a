import type { Job } from "@frazil/contracts";
import { bootstrap } from "@frazil/control-plane";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type Api, openApi } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane } from "../../harness/control-plane.ts";
import { type HeldTask, type LightNode, type LightNodeOptions, startLightNode } from "../../harness/light-node.ts";
import { manyFrames, oneQuery } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

/** A task that goes on until the test ends it: what is tested is the order, which no load of the machine changes. */
const UNTIL_ENDED = Number.POSITIVE_INFINITY;

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
  over: Pick<LightNodeOptions, "taskMs"> & {
    readonly api?: Api;
    /** All nodes are connected to this one. */
    readonly plane?: TestControlPlane;
    readonly onChange?: (what: string, task: HeldTask, nodeId: string) => void;
  },
) {
  const warm = await first.warmCluster({ cpus, clusterSize: size, api: over.api ?? ann });
  const nodes: LightNode[] = [];
  for (const [at, node] of warm.nodes.entries()) {
    await node.disconnect();
    const { address } = over.plane ?? (at % 2 === 0 ? first : second);
    const { taskMs } = over;
    const onChange = (what: string, task: HeldTask) => over.onChange?.(what, task, node.id);
    const { id: nodeId, token: nodeToken } = node;
    nodes.push(startLightNode({ addresses: [address], nodeId, nodeToken, slots: cpus, taskMs, onChange }));
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

interface Begin {
  readonly jobId: string;
  readonly nodeId: string;
}

/** The tasks that began, in order. */
function watchBegins() {
  const begun: Begin[] = [];
  const onChange = (what: string, task: HeldTask, nodeId: string) => {
    if (what === "begun") begun.push({ jobId: task.jobId, nodeId });
  };
  return { begun, onChange };
}

/** All that runs on the nodes ends, once. Resolves to the jobs of what began instead on the node that the query is on by then. */
async function nextBeside(nodes: readonly LightNode[], begun: readonly Begin[], query: string): Promise<string[]> {
  const before = begun.length;
  const running = nodes.map((node) => [...node.held.values()].filter((task) => task.begunAtMs !== undefined).length);
  for (const [at, node] of nodes.entries()) for (let left = running[at] ?? 0; left > 0; left--) node.endOldest();
  const { nodeId } = await waitUntil("the query begins", () => begun.find((one) => one.jobId === query));
  return begun.slice(before).flatMap((one) => (one.nodeId === nodeId ? [one.jobId] : []));
}

describe("a single query beside ten thousand tasks of another user", () => {
  it("has the first node that is free, on one node and on several, whose control planes differ", async () => {
    const { begun, onChange } = watchBegins();
    for (const size of [1, 3]) {
      const { clusterId, nodes } = await lightCluster(2, size, { taskMs: () => UNTIL_ENDED, onChange });
      const many = await submitFrames(ann, clusterId, 10_000);
      await waitUntil("every slot is taken", () => begunOf(nodes) === 2 * size);
      // It takes all slots of a node: none of those that become free there may go to others before.
      const { id } = await bob.submit(oneQuery({ context: null, clusterId }));
      expect(await nextBeside(nodes, begun, id)).toEqual([id]);
      await ann.post(`/v1/jobs/${many.id}/cancel`);
    }
  });

  it("has the first node that is free, also when tasks that were sent ahead take for ever and those before them a moment", async () => {
    const { begun, onChange } = watchBegins();
    let taskMs = 1;
    const { clusterId, nodes } = await lightCluster(2, 1, { taskMs: () => taskMs, onChange });
    const node = nodes[0] as LightNode;
    const many = await submitFrames(ann, clusterId, 10_000);
    await waitUntil("tasks are sent ahead", () => node.held.size > 100);
    taskMs = UNTIL_ENDED;
    const aheadOf = () => [...node.held.values()].filter((task) => task.begunAtMs === undefined);
    await waitUntil("the node has a queue of long ones", () => node.held.size - aheadOf().length === 2);
    expect(aheadOf().length).toBeGreaterThan(50);
    const { id } = await bob.submit(oneQuery({ context: null, clusterId }));
    await waitUntil("what was sent ahead is back", () => aheadOf().every((task) => task.jobId === id));
    expect(await nextBeside(nodes, begun, id)).toEqual([id]);
    expect(node.counts.returned).toBeGreaterThan(50);
    // What was given back is done later, and cost no attempt.
    const returned = await waitUntil("that is recorded", async () => {
      const rows = await first.sql<{ spare: number }>(
        "SELECT attempts_max - attempt AS spare FROM tasks WHERE job_id = $1 AND attempt > 0 AND status = 'queued'",
        [many.id],
      );
      return rows.length > 50 && rows;
    });
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
    // Counted from when Bob has his first task until his last has ended: the same time for both.
    const BOBS_FRAMES = 20;
    const done = { ann: 0, bob: 0 };
    let isBobThere = false;
    const onChange = (what: string, { user }: HeldTask) => {
      if (what === "begun") return;
      held += what === "leased" ? 1 : -1;
      heldMax = Math.max(heldMax, held);
      isBobThere ||= user === "bob";
      if (what === "finished" && isBobThere && done.bob < BOBS_FRAMES) done[user === "bob" ? "bob" : "ann"] += 1;
    };
    await setLimit(5);
    const clusters = [
      await lightCluster(4, 2, { taskMs: () => 200, onChange, api: owner }),
      await lightCluster(4, 2, { taskMs: () => 200, onChange, api: owner }),
    ] as const;
    // Ann's are on both clusters, Bob's on one.
    const jobs = [
      await submitFrames(owner, clusters[0].clusterId, 200),
      await submitFrames(owner, clusters[1].clusterId, 200),
      await submitFrames(guest, clusters[1].clusterId, BOBS_FRAMES),
    ];
    await waitUntil("Bob's are done", async () => (await guest.job((jobs[2] as Job).id)).finishedAt !== null, 25_000);
    expect(heldMax).toBe(5);
    expect(done.bob).toBe(BOBS_FRAMES);
    // Equal shares: Ann has done about as much as Bob by then, on both clusters together.
    expect(Math.max(done.ann, done.bob)).toBeLessThan(2 * Math.min(done.ann, done.bob));
    await Promise.all(jobs.map((job) => owner.post(`/v1/jobs/${job.id}/cancel`)));
  });

  it("is said in the phase of a job that waits for it, a single query too, until it is raised", async () => {
    const { begun, onChange } = watchBegins();
    const { clusterId, nodes } = await lightCluster(2, 2, { taskMs: () => UNTIL_ENDED, onChange, api: owner });
    await setLimit(1);
    const holds = await submitFrames(owner, clusterId, 1);
    await waitUntil("it runs", () => begunOf(nodes) === 1);
    const { id } = await guest.submit(oneQuery({ context: null, clusterId }));
    const phase = () => guest.job(id).then((job) => job.phase);
    await waitUntil("it waits", async () => (await phase()) === "waiting: the workspace runs its 1 tasks");
    expect(await guest.get("/v1/workspace")).toMatchObject({ tasksRunningMax: 1, tasksRunning: 1 });
    await setLimit(2);
    await waitUntil("it begins", () => begun.some((one) => one.jobId === id));
    for (const job of [holds.id, id]) await owner.post(`/v1/jobs/${job}/cancel`);
  });

  it("is used up by clusters that would each leave the last of it to the other", async () => {
    await setLimit(3);
    const clusters = [
      await lightCluster(2, 1, { taskMs: () => UNTIL_ENDED, api: owner }),
      await lightCluster(2, 1, { taskMs: () => UNTIL_ENDED, api: owner }),
    ] as const;
    const jobs: string[] = [];
    for (const { clusterId, nodes } of clusters) {
      jobs.push((await submitFrames(owner, clusterId, 20)).id);
      await waitUntil("it has one", () => begunOf(nodes) >= 1);
    }
    const running = () => clusters.flatMap(({ nodes }) => nodes).reduce((sum, node) => sum + node.held.size, 0);
    for (let round = 0; round < 6; round++) {
      await waitUntil("all of the limit is used", () => running() === 3);
      // Each seems to the other to have waited for long.
      await first.sql("UPDATE jobs SET leased_at = now() - interval '10 minutes' WHERE id = ANY($1)", [jobs]);
      (clusters[round % 2] as (typeof clusters)[0]).nodes[0]?.endOldest();
    }
    await waitUntil("all of the limit is used", () => running() === 3);
    for (const job of jobs) await owner.post(`/v1/jobs/${job}/cancel`);
  });

  it("is shared with a cluster whose control plane hears of what is free only after a while", async () => {
    await setLimit(5);
    const taskMs = () => UNTIL_ENDED;
    const anns = await lightCluster(8, 1, { taskMs, api: owner, plane: first });
    const bobs = await lightCluster(8, 1, { taskMs, api: owner, plane: second });
    const jobs = [await submitFrames(owner, anns.clusterId, 200)];
    await waitUntil("Ann has all of it", () => begunOf(anns.nodes) === 5);
    jobs.push(await submitFrames(guest, bobs.clusterId, 200));
    const nodes = [...anns.nodes, ...bobs.nodes];
    const running = () => nodes.reduce((sum, node) => sum + node.held.size, 0);
    const ROUNDS = 8;
    const SHORTLY_MS = 8;
    for (let round = 0; round < ROUNDS; round++) {
      // All that runs ends, one shortly after the other: the nearest cluster looks again at each of them.
      for (const node of nodes) {
        for (let left = node.held.size; left > 0; left--) {
          node.endOldest();
          await new Promise((resolve) => setTimeout(resolve, SHORTLY_MS));
        }
      }
      await waitUntil("all of the limit is used", () => running() === 5);
    }
    expect(begunOf(bobs.nodes)).toBeGreaterThanOrEqual(ROUNDS);
    for (const { id } of jobs) await owner.post(`/v1/jobs/${id}/cancel`);
  });

  it("is not kept for a cluster that has no node for what waits there", async () => {
    await setLimit(2);
    const full = await lightCluster(4, 1, { taskMs: () => UNTIL_ENDED, api: owner });
    const free = await lightCluster(4, 1, { taskMs: () => UNTIL_ENDED, api: owner });
    const queries = [await owner.submit(oneQuery({ context: null, clusterId: full.clusterId }))];
    await waitUntil("one has the node", () => begunOf(full.nodes) === 1);
    queries.push(await owner.submit(oneQuery({ context: null, clusterId: full.clusterId })));
    const many = await submitFrames(owner, free.clusterId, 5);
    await waitUntil("the other cluster runs one", () => begunOf(free.nodes) === 1);
    for (const { id } of [...queries, many]) await owner.post(`/v1/jobs/${id}/cancel`);
  });
});

describe("cancelling a job with very many tasks", () => {
  it("reaches its engines first, and lets others submit, lease and record while it goes on", async () => {
    const mine = await lightCluster(4, 1, { taskMs: () => UNTIL_ENDED });
    const theirs = await lightCluster(4, 1, { taskMs: () => 5 });
    const big = await submitFrames(ann, mine.clusterId, 20_000);
    await waitUntil("its slots are taken", () => begunOf(mine.nodes) === 4);
    const other = await submitFrames(bob, theirs.clusterId, 10_000);
    // As long as somebody holds the last of its tasks, the cancel is not over.
    const [last] = await first.sql<{ id: string }>(
      "SELECT id FROM tasks WHERE job_id = $1 ORDER BY ordinal DESC LIMIT 1",
      [big.id],
    );
    const holder = await first.holdTask(last?.id as string);
    let isOver = false;
    const cancelling = ann.post<Job>(`/v1/jobs/${big.id}/cancel`).finally(() => {
      isOver = true;
    });
    await waitUntil("its engines have stopped", () => mine.nodes[0]?.counts.cancelled === 4);
    const doneBefore = (await bob.job(other.id)).counts.succeeded;
    await waitUntil("the other job goes on", async () => (await bob.job(other.id)).counts.succeeded > doneBefore + 500);
    const { id } = await bob.submit(oneQuery({ context: null, clusterId: theirs.clusterId }));
    expect((await bob.ended(id)).status).toBe("succeeded");
    expect(isOver).toBe(false);
    await holder.release();
    const done = await cancelling;
    expect(done).toMatchObject({ status: "cancelled", counts: { total: 20_000, cancelled: 20_000, running: 0 } });
    const left = await first.sql("SELECT 1 FROM tasks WHERE job_id = $1 AND status <> 'cancelled'", [big.id]);
    expect(left).toEqual([]);
    await bob.post(`/v1/jobs/${other.id}/cancel`);
  });

  it("is finished by any other control plane when the one that was asked dies in between", async () => {
    const { clusterId } = await lightCluster(1, 1, { taskMs: () => UNTIL_ENDED });
    const { id } = await submitFrames(ann, clusterId, 5_000);
    // All that a control plane leaves that dies right after it was asked.
    await first.sql("UPDATE jobs SET cancel_requested_at = now() WHERE id = $1", [id]);
    expect(await ann.ended(id)).toMatchObject({ status: "cancelled", counts: { cancelled: 5_000 } });
  });
});
