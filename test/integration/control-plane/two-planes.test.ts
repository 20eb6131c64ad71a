import { type Job, mintId } from "@frazil/contracts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Api, openApi } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane } from "../../harness/control-plane.ts";
import { type FakeNode, letWork, makeFakeNode, USAGE } from "../../harness/fake-node.ts";
import { manyFrames, oneQuery, SHAPE, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let first: TestControlPlane;
let second: TestControlPlane;
/** The same user, at the second control plane. */
let api: Api;
beforeAll(async () => {
  first = await startTestControlPlane();
  second = await startTestControlPlane({ beside: first });
  api = openApi(second.address, first.api.token);
});
afterAll(() => first.close());

/** A node of a cluster connects to this control plane, whichever ordered it. */
async function connectTo(test: TestControlPlane, node: FakeNode): Promise<FakeNode> {
  await node.disconnect();
  const there = makeFakeNode(test.address, node.id, node.token);
  await there.reconnect();
  return there;
}

const HEAR_WITHIN_MS = 10_000;

/** Resolves once a control plane is told that something changed; it would notice by looking, too, but later. */
function hears(test: TestControlPlane, topic: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`${topic} was not heard of`)), HEAR_WITHIN_MS);
    const stop = test.plane.deps.changes.listen(topic, () => {
      clearTimeout(late);
      stop();
      resolve();
    });
  });
}

describe("two control planes on one database", () => {
  it("tell each other of work for the nodes of the other, and of ends for its waiters", async () => {
    const warm = await first.warmCluster();
    const node = await connectTo(first, warm.node);
    const toldOfWork = hears(first, `room:${warm.clusterId}`);
    const job = await api.submit(submission(warm.clusterId));
    await toldOfWork;
    const { task } = await node.takeRun();
    const toldOfEnd = hears(second, `end:${job.id}`);
    const waiting = api.ended(job.id);
    await node.finish(task, succeeded(3));
    await toldOfEnd;
    expect((await waiting).result?.rows).toBe(3);
    await node.disconnect();
  });

  it("tell a node of the other to stop what was cancelled here, before it asks", async () => {
    const warm = await first.warmCluster();
    const node = await connectTo(first, warm.node);
    const job = await warm.submit();
    const { task } = await node.takeRun();
    await api.post<Job>(`/v1/jobs/${job.id}/cancel`);
    expect((await node.take("cancel")).tasks).toEqual([{ taskId: task.taskId, attempt: 1 }]);
    await node.disconnect();
  });

  it("hear each other again after the connection for it was cut", async () => {
    const listeners = () =>
      first.sql<{ pid: number }>(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'frazil-changes' AND datname = current_database() ORDER BY pid",
      );
    const before = await listeners();
    expect(before).toHaveLength(2);
    await first.sql("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", [before.map((row) => row.pid)]);
    await waitUntil("both listen again", async () => {
      const now = await listeners();
      return now.length === 2 && now.every((row) => !before.some((old) => old.pid === row.pid));
    });
    let heard = false;
    const listening = hears(first, "job:of the second").then(() => {
      heard = true;
    });
    await waitUntil("the first hears of it", () => {
      second.plane.deps.changes.notify("job:of the second");
      return heard;
    });
    await listening;
  });

  it("give a node the content of a lease that the other sent it, as that one does", async () => {
    const warm = await first.warmCluster();
    const node = await connectTo(second, warm.node);
    const env = { LARGE: "v".repeat(32_000), LARGER: "w".repeat(32_000) };
    const { id } = await api.submit(oneQuery({ context: { ...SHAPE, env }, clusterId: warm.clusterId }));
    const { tasks } = await node.take("lease_by_reference");
    const { run, template, task } = await node.takeRun();
    // A query has its node to itself.
    expect(run.slots).toBe(SHAPE.cpus);
    const ofFirst = await openApi(first.address, node.token).post("/v1/agent/leases", { tasks });
    expect(ofFirst).toEqual({ batches: [{ runs: [run], template }] });
    await node.finish(task, succeeded());
    await api.ended(id);
    await node.disconnect();
  });

  it("tell each other of slots that are free, when the report came to the one that the node is not connected to", async () => {
    const warm = await first.warmCluster();
    const node = await connectTo(first, warm.node);
    const running = await warm.submit();
    const { task } = await node.takeRun();
    await warm.submit();
    const outcome = succeeded(2, {
      locations: Array.from({ length: 1_000 }, (_, part) => `/results/${"x".repeat(60)}${part}`),
    });
    const message = { type: "finished", taskId: task.taskId, attempt: 1, outcome, usage: USAGE, openedPython: false };
    await openApi(second.address, node.token).post("/v1/agent/messages", { messages: [message] });
    expect((await api.ended(running.id)).result?.rows).toBe(2);
    // It has one node, which a query takes whole.
    expect(await node.finish((await node.takeRun()).task, succeeded())).toBe(true);
    await node.disconnect();
  });

  it("tell each other of much at once", async () => {
    const topics = Array.from({ length: 500 }, () => `freed:${mintId("node")} ${mintId("task")}#10000`);
    const heard = Promise.all(topics.map((topic) => hears(first, topic)));
    for (const topic of topics) second.plane.deps.changes.notify(topic);
    await heard;
  });

  it("order each node once, whoever looks after the cluster", async () => {
    const { id } = await api.post<{ id: string }>("/v1/clusters", {
      context: { cpus: 1, memoryGiB: 50, clusterSize: 4 },
    });
    for (let time = 0; time < 10; time++) {
      for (const { plane } of [first, second]) plane.deps.queue.send(time % 2 === 0 ? "supervise" : "provision", id);
    }
    await first.cloud.orderOf(id, 3);
    await waitUntil("the cluster was looked after", async () => {
      const rows = await first.sql<{ due: boolean }>("SELECT due_at > now() AS due FROM clusters WHERE id = $1", [id]);
      return rows[0]?.due;
    });
    expect(await first.sql("SELECT count(*)::int AS n FROM nodes WHERE cluster_id = $1", [id])).toEqual([{ n: 4 }]);
  });

  it("share a job's frames between nodes that are connected to either, each frame once", async () => {
    const warm = await first.warmCluster({ clusterSize: 2 });
    const planes = [first, second];
    const nodes = await Promise.all(warm.nodes.map((node, at) => connectTo(planes[at] ?? first, node)));
    const job = await api.submit(
      manyFrames(
        ["a plan"],
        Array.from({ length: 400 }, () => 0),
        { context: null, clusterId: warm.clusterId },
      ),
    );
    const work = nodes.map((node) => letWork(node, ({ frame }) => succeeded(frame ?? -1)));
    const done = await api.ended(job.id);
    for (const one of work) await one.stop();
    expect(done.counts).toMatchObject({ total: 400, succeeded: 400 });
    expect((await api.results(job.id)).map((result) => result.rows)).toEqual([...Array(400).keys()]);
    expect(work.every((one) => one.done.length > 0)).toBe(true);
    expect(work.reduce((sum, one) => sum + one.done.length, 0)).toBe(400);
    for (const node of nodes) await node.disconnect();
  });

  it("let one of them be closed: its nodes connect to the other and go on with what they hold", async () => {
    const warm = await first.warmCluster();
    const node = await connectTo(second, warm.node);
    const { id } = await first.api.submit(submission(warm.clusterId));
    const { task } = await node.takeRun();
    await second.close();
    expect(node.isOpen()).toBe(false);
    await expect(api.job(id)).rejects.toThrow();
    const back = makeFakeNode(first.address, node.id, node.token);
    await back.reconnect([task]);
    expect(await back.finish(task, succeeded(8))).toBe(true);
    expect((await first.api.ended(id)).result?.rows).toBe(8);
    await back.disconnect();
  });
});

function submission(clusterId: string) {
  return oneQuery({ context: null, clusterId });
}
