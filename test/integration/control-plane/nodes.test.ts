import type { Cluster, Job } from "@frazil/contracts";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { runStep } from "../../../control-plane/src/flow/steps.ts";
import { makeThereFor, startTestControlPlane, type TestControlPlane } from "../../harness/control-plane.ts";
import { type FakeNode, joinNode, joinRequest, letWork, startFakeNode } from "../../harness/fake-node.ts";
import { oneQuery, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let test: TestControlPlane;
beforeAll(async () => {
  test = await startTestControlPlane({ expectedErrors: /the cloud's API is down|could not make a machine/ });
});
afterAll(() => test.close());

beforeEach(() => makeThereFor(test, 3_600));

const clusterOf = (id: string) => test.api.get<Cluster>(`/v1/clusters/${id}`);
const nodesOf = (clusterId: string) =>
  test.sql<{ id: string; status: string }>("SELECT id, status FROM nodes WHERE cluster_id = $1 ORDER BY id", [
    clusterId,
  ]);
/** Brings the next look at a cluster forward. */
const lookAfter = (clusterId: string) => test.hurry("supervise", clusterId);
const expectTerminated = (clusterId: string) =>
  waitUntil("the cluster is terminated", async () => {
    test.hurry("stop", clusterId);
    return (await clusterOf(clusterId)).status === "terminated";
  });
const makeSilent = (nodeId: string, seconds: number) =>
  test.sql(
    "UPDATE nodes SET seen_at = seen_at - make_interval(secs => $2), created_at = created_at - make_interval(secs => $2) WHERE id = $1",
    [nodeId, seconds],
  );

describe("a node that is lost", () => {
  it("is replaced, and its task runs on the other, when the cloud no longer has it", async () => {
    const warm = await test.warmCluster();
    const { job, task } = await warm.submitAndTake();
    test.cloud.lose(warm.node.id);
    await warm.node.disconnect();
    lookAfter(warm.clusterId);
    const other = await startFakeNode(await test.cloud.orderOf(warm.clusterId, 1));
    const again = await other.takeRun();
    expect(again.task).toEqual({ ...task, attempt: 2 });
    expect(await other.finish(again.task, succeeded(2))).toBe(true);
    expect((await test.api.ended(job.id)).result?.rows).toBe(2);
    expect(await nodesOf(warm.clusterId)).toEqual([
      { id: warm.node.id, status: "terminated" },
      { id: other.id, status: "ready" },
    ]);
    const lost = await test.sql(
      "SELECT status, error ->> 'code' AS code FROM attempts WHERE task_id = $1 AND number = 1",
      [task.taskId],
    );
    expect(lost).toEqual([{ status: "lost", code: "node_lost" }]);
    // Its token is worth nothing any more.
    await expect(warm.node.reconnect([])).rejects.toThrow(/401/);
    await other.disconnect();
  });

  it("is replaced by a control plane that just started, whenever the next look was due", async () => {
    const warm = await test.warmCluster();
    test.cloud.lose(warm.node.id);
    await warm.node.disconnect();
    await test.sql("UPDATE clusters SET due_at = now() + interval '4 minutes' WHERE id = $1", [warm.clusterId]);
    const started = await startTestControlPlane({ beside: test });
    try {
      const other = await startFakeNode(await test.cloud.orderOf(warm.clusterId, 1));
      await other.disconnect();
    } finally {
      await started.close();
    }
  });

  it("leaves a publishing that another node finishes from the manifest", async () => {
    const warm = await test.warmCluster();
    const { job, task } = await warm.submitAndTake({ output: { destination: "/data/out", format: "parquet" } });
    expect(await warm.node.stage(task, { parts: "part-0.parquet" })).toBe("publish");
    test.cloud.lose(warm.node.id);
    await warm.node.disconnect();
    lookAfter(warm.clusterId);
    const other = await startFakeNode(await test.cloud.orderOf(warm.clusterId, 1));
    const { run, task: again } = await other.takeRun();
    expect(run.publish).toEqual({ manifest: { parts: "part-0.parquet" } });
    expect(again).toEqual({ ...task, attempt: 2 });
    expect(await other.finish(again, succeeded(4))).toBe(true);
    expect((await test.api.ended(job.id)).result?.rows).toBe(4);
    await other.disconnect();
  });

  it("is ended by force and replaced when nothing was heard of it for too long, by the database's clock", async () => {
    const warm = await test.warmCluster();
    // Two leases, which are long in tests.
    await makeSilent(warm.node.id, (2 * (test.config.leaseTtlMs ?? 0)) / 1_000 - 5);
    lookAfter(warm.clusterId);
    await makeSilent(warm.node.id, 6);
    lookAfter(warm.clusterId);
    await test.cloud.orderOf(warm.clusterId, 1);
    expect(test.cloud.destroyed.filter((one) => one.nodeId === warm.node.id)).toContainEqual({
      nodeId: warm.node.id,
      urgency: "force",
    });
    lookAfter(warm.clusterId);
    await waitUntil("it is gone", async () => (await nodesOf(warm.clusterId))[0]?.status === "terminated");
  });

  it("is given up when it never joins, and its join token with it", async () => {
    const { id } = await test.api.post<Cluster>("/v1/clusters", { context: { cpus: 1, memoryGiB: 8 } });
    const order = await test.cloud.orderOf(id, 0);
    await waitUntil(
      "the machine is known",
      async () =>
        (await test.sql("SELECT 1 FROM nodes WHERE id = $1 AND handle IS NOT NULL", [order.nodeId])).length > 0,
    );
    await makeSilent(order.nodeId, 121);
    lookAfter(id);
    await test.cloud.orderOf(id, 1);
    lookAfter(id);
    await waitUntil("it is gone", async () => (await nodesOf(id))[0]?.status === "terminated");
    await expect(joinNode(order)).rejects.toThrow(/401/);
  });
});

describe("a node that nobody could hear, for there was no control plane", () => {
  it("keeps its tasks: one that starts waits for it to come back", async () => {
    const warm = await test.warmCluster();
    const { job, task } = await warm.submitAndTake();
    makeThereFor(test, 0);
    await warm.node.disconnect();
    await makeSilent(warm.node.id, 600);
    await test.sql("UPDATE tasks SET lease_expires_at = now() - interval '10 minutes' WHERE id = $1", [task.taskId]);
    const started = await startTestControlPlane({ beside: test });
    try {
      await runStep(started.plane.deps, "supervise", warm.clusterId);
      await runStep(started.plane.deps, "expire", "leases");
      await warm.node.reconnect([task]);
      expect(await warm.node.finish(task, succeeded(4))).toBe(true);
    } finally {
      await started.close();
    }
    expect((await test.api.ended(job.id)).result?.rows).toBe(4);
    expect(await nodesOf(warm.clusterId)).toEqual([{ id: warm.node.id, status: "ready" }]);
    expect(test.cloud.destroyed.map((one) => one.nodeId)).not.toContain(warm.node.id);
  });

  it("is replaced some seconds after one started, when no machine came of its order", async () => {
    const { id } = await test.api.post<Cluster>("/v1/clusters", { context: { cpus: 1, memoryGiB: 12 } });
    const { nodeId } = await test.cloud.orderOf(id, 0);
    test.cloud.lose(nodeId);
    makeThereFor(test, 9);
    await makeSilent(nodeId, 600);
    await runStep(test.plane.deps, "supervise", id);
    expect(await nodesOf(id)).toEqual([{ id: nodeId, status: "requested" }]);
    makeThereFor(test, 11);
    await runStep(test.plane.deps, "supervise", id);
    await test.cloud.orderOf(id, 1);
  });
});

describe("a node that says nothing for as long as a lease lasts", () => {
  const LEASE_TTL_MS = 4_000;
  const WITHIN_MS = 5 * LEASE_TTL_MS;
  let quick: TestControlPlane;
  beforeAll(async () => {
    quick = await startTestControlPlane({ leaseTtlMs: LEASE_TTL_MS });
    makeThereFor(quick, 3_600);
  });
  afterAll(() => quick.close());
  const keepBeating = (node: FakeNode) =>
    setInterval(() => {
      if (node.isOpen()) node.send({ type: "heartbeat", holding: [], cpuPercent: 0, memoryBytes: 0 });
    }, LEASE_TTL_MS / 6);

  it("is cut off, and its task runs on another node of the cluster", async () => {
    const warm = await quick.warmCluster({ clusterSize: 2 });
    const { id } = await warm.submit();
    const silent = await waitUntil("a node has the run", () => warm.nodes.find((node) => node.waitingRuns.length > 0));
    const other = warm.nodes.find((node) => node !== silent) ?? silent;
    const beating = keepBeating(other);
    const first = await silent.takeRun();
    await waitUntil("the silent node is cut off", () => !silent.isOpen(), WITHIN_MS);
    const again = await other.takeRun(WITHIN_MS);
    clearInterval(beating);
    expect(again.task).toEqual({ ...first.task, attempt: 2 });
    expect(await other.finish(again.task, succeeded(2))).toBe(true);
    expect((await quick.api.ended(id)).result?.rows).toBe(2);
  });

  it("of an attempt, though it speaks, does not have it: the slots are free, and the task comes again", async () => {
    const warm = await quick.warmCluster();
    const beating = keepBeating(warm.node);
    const { job, task } = await warm.submitAndTake();
    const again = await warm.node.takeRun(WITHIN_MS);
    expect(again.task).toEqual({ ...task, attempt: 2 });
    expect(await warm.node.finish(again.task, succeeded())).toBe(true);
    clearInterval(beating);
    expect((await quick.api.ended(job.id)).status).toBe("succeeded");
  });
});

describe("a join token", () => {
  it("is good for one node, once", async () => {
    const { id } = await test.api.post<Cluster>("/v1/clusters", { context: { cpus: 1, memoryGiB: 9 } });
    const order = await test.cloud.orderOf(id, 0);
    const node = await startFakeNode(order);
    expect(node.id).toBe(order.nodeId);
    const again = await test.nobody.request("POST", "/v1/agent/join", { body: joinRequest(order) });
    expect(again.status).toBe(401);
    await node.disconnect();
  });
});

describe("a cluster", () => {
  it("is made when the cloud answers again after it failed, and has no machine too many", async () => {
    let failures = 2;
    test.cloud.answerOrder = () => {
      failures -= 1;
      if (failures >= 0) throw new Error("the cloud's API is down");
      return undefined;
    };
    const { id } = await test.api.post<Cluster>("/v1/clusters", { context: { cpus: 1, memoryGiB: 10 } });
    await waitUntil("the first order failed", () => failures < 2);
    // An order that came to nothing is taken for one that is under way for a while.
    await waitUntil("the second order failed", async () => {
      for (const node of await nodesOf(id)) if (node.status === "requested") await makeSilent(node.id, 11);
      lookAfter(id);
      return failures < 0;
    });
    test.cloud.answerOrder = undefined;
    const order = await test.cloud.orderOf(id, 0);
    const node = await startFakeNode(order);
    await waitUntil("it is ready", async () => (await clusterOf(id)).status === "ready");
    expect((await nodesOf(id)).filter((one) => one.status === "ready")).toEqual([{ id: node.id, status: "ready" }]);
    expect(test.cloud.alive.has(order.nodeId)).toBe(true);
    await node.disconnect();
  });

  /** Replacements of its one node that came to nothing. */
  const loseNodes = (clusterId: string, count: number) =>
    test.sql(
      `INSERT INTO nodes (id, cluster_id, workspace_id, status)
        SELECT 'node_' || $1 || n, $1, workspace_id, 'terminated' FROM clusters, generate_series(1, $2) AS n WHERE clusters.id = $1`,
      [clusterId, count],
    );

  it("is not given up for the nodes that it lost before a job of it ended", async () => {
    const warm = await test.warmCluster();
    await loseNodes(warm.clusterId, 21);
    const { job, task } = await warm.submitAndTake();
    await warm.node.finish(task, succeeded());
    await test.api.ended(job.id);
    test.cloud.lose(warm.node.id);
    lookAfter(warm.clusterId);
    await waitUntil("another node is ordered", async () =>
      (await nodesOf(warm.clusterId)).some((one) => one.status === "requested"),
    );
    expect((await clusterOf(warm.clusterId)).status).toBe("ready");
  });

  it("is given up when its nodes don't stay up, with its jobs", async () => {
    const warm = await test.warmCluster();
    const { job } = await warm.submitAndTake();
    await loseNodes(warm.clusterId, 21);
    test.cloud.lose(warm.node.id);
    lookAfter(warm.clusterId);
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({ status: "failed", error: { code: "cluster_failed" } });
    const cluster = await test.api.get<Cluster>(`/v1/clusters/${warm.clusterId}/wait?timeout=20`);
    expect(cluster).toMatchObject({ status: "terminated", error: { code: "cluster_failed" } });
  });

  it("is terminated only when the cloud confirms that its machines are gone", async () => {
    test.cloud.drainsAtOnce = false;
    const warm = await test.warmCluster();
    const stopped = await test.api.request<Cluster>("POST", `/v1/clusters/${warm.clusterId}/stop`);
    expect([stopped.status, stopped.body.status]).toEqual([202, "stopping"]);
    await waitUntil("the node is told to drain", () =>
      test.cloud.destroyed.some((one) => one.nodeId === warm.node.id && one.urgency === "drain"),
    );
    expect((await clusterOf(warm.clusterId)).status).toBe("stopping");
    test.cloud.drainsAtOnce = true;
    test.cloud.lose(warm.node.id);
    test.hurry("stop", warm.clusterId);
    const gone = await test.api.get<Cluster>(`/v1/clusters/${warm.clusterId}/wait?timeout=20`);
    expect(gone).toMatchObject({ status: "terminated", nodes: { total: 0 } });
    expect(gone.finishedAt).not.toBeNull();
    // Stopping it again changes nothing.
    expect(await test.api.post<Cluster>(`/v1/clusters/${warm.clusterId}/stop`)).toEqual(gone);
  });

  it("takes the jobs that were pinned to it along when it is stopped; the others are placed anew", async () => {
    const warm = await test.warmCluster();
    const { shape } = await clusterOf(warm.clusterId);
    const running = await warm.submitAndTake();
    const pinned = await warm.submit();
    const free = await test.api.submit(oneQuery({ context: shape }));
    expect(free.clusterId).toBe(warm.clusterId);
    await test.api.post(`/v1/clusters/${warm.clusterId}/stop`);
    for (const { id } of [running.job, pinned]) {
      const done = await test.api.ended(id);
      expect(done).toMatchObject({ status: "failed", error: { code: "cluster_failed" }, counts: { failed: 1 } });
    }
    expect((await warm.node.take("cancel")).tasks).toEqual([{ taskId: running.task.taskId, attempt: 1 }]);
    const moved = await waitUntil("it has another cluster", async () => {
      const job = await test.api.job(free.id);
      return job.clusterId !== null && job.clusterId !== warm.clusterId && job;
    });
    const node = await startFakeNode(await test.cloud.orderOf(moved.clusterId ?? "", 0));
    const work = letWork(node, () => succeeded());
    expect((await test.api.ended(free.id)).status).toBe("succeeded");
    await work.stop();
    await node.disconnect();
  });

  it("ends when it was idle for its time, and not a moment before", async () => {
    const warm = await test.warmCluster();
    const { idleTimeoutSeconds } = await clusterOf(warm.clusterId);
    const makeIdle = (seconds: number) =>
      test.sql("UPDATE clusters SET busy_at = now() - make_interval(secs => $2) WHERE id = $1", [
        warm.clusterId,
        seconds,
      ]);
    const { job, task } = await warm.submitAndTake();
    await makeIdle(idleTimeoutSeconds + 1);
    test.hurry("stop_idle", warm.clusterId);
    await warm.node.finish(task, succeeded());
    await test.api.ended(job.id);
    await makeIdle(idleTimeoutSeconds - 5);
    test.hurry("stop_idle", warm.clusterId);
    const next = await warm.submitAndTake();
    await warm.node.finish(next.task, succeeded());
    await test.api.ended(next.job.id);
    expect((await clusterOf(warm.clusterId)).status).toBe("ready");
    await makeIdle(idleTimeoutSeconds + 1);
    test.hurry("stop_idle", warm.clusterId);
    await expectTerminated(warm.clusterId);
  });

  it("never keeps a job that came as it ended", async () => {
    const warm = await test.warmCluster();
    const { shape } = await clusterOf(warm.clusterId);
    await test.api.post(`/v1/clusters/${warm.clusterId}/stop`);
    await expectTerminated(warm.clusterId);
    // What a submission leaves that looked for a cluster just before, and committed just after.
    const [free, pinned] = await Promise.all([
      test.api.submit(oneQuery({ context: { ...shape, memoryGiB: 77 } })),
      test.api.submit(oneQuery({ context: { ...shape, memoryGiB: 77 } })),
    ]);
    await test.sql("UPDATE jobs SET cluster_id = $1, cluster_pinned = (id = $3) WHERE id IN ($2, $3)", [
      warm.clusterId,
      free.id,
      pinned.id,
    ]);
    test.hurry("stop", warm.clusterId);
    expect((await test.api.ended(pinned.id)).error?.code).toBe("cluster_failed");
    await waitUntil("the other is placed anew", async () => {
      const { clusterId } = await test.api.job(free.id);
      return clusterId !== null && clusterId !== warm.clusterId;
    });
    await test.api.post<Job>(`/v1/jobs/${free.id}/cancel`);
  });

  it("can't be named by a job once it is stopped, nor when there is none", async () => {
    const warm = await test.warmCluster();
    await test.api.post(`/v1/clusters/${warm.clusterId}/stop`);
    const late = await test.api.request<{ code: string }>("POST", "/v1/jobs", {
      body: oneQuery({ context: null, clusterId: warm.clusterId }),
    });
    expect([late.status, late.body.code]).toEqual([409, "conflict"]);
    const none = await test.api.request<{ code: string }>("POST", "/v1/jobs", {
      body: oneQuery({ context: null, clusterId: `cl_${"0".repeat(26)}` }),
    });
    expect([none.status, none.body.code]).toEqual([404, "not_found"]);
  });

  it("is destroyed with the machine that came after it was stopped", async () => {
    let release = (): void => undefined;
    const held = new Promise<undefined>((resolve) => {
      release = () => resolve(undefined);
    });
    let ordered: string | undefined;
    test.cloud.answerOrder = (order) => {
      ordered = order.nodeId;
      return held;
    };
    const { id } = await test.api.post<Cluster>("/v1/clusters", { context: { cpus: 1, memoryGiB: 11 } });
    await waitUntil("the machine is being made", () => ordered);
    test.cloud.answerOrder = undefined;
    await test.api.post(`/v1/clusters/${id}/stop`);
    await expectTerminated(id);
    release();
    await test.cloud.orderOf(id, 0);
    await waitUntil("the machine is gone too", () => !test.cloud.alive.has(ordered ?? ""));
  });
});

describe("lists of clusters", () => {
  it("show the workspace's own, newest first, with their nodes and open jobs", async () => {
    const warm = await test.warmCluster({ clusterSize: 2 });
    const { job, task } = await warm.submitAndTake();
    const { items } = await test.api.get<{ items: Cluster[] }>("/v1/clusters?limit=1");
    expect(items).toMatchObject([{ id: warm.clusterId, nodes: { ready: 2, total: 2 }, activeJobs: 1 }]);
    const ready = await test.api.get<{ items: Cluster[] }>("/v1/clusters?status=ready&limit=100");
    expect(ready.items.every((cluster) => cluster.status === "ready")).toBe(true);
    expect(await test.stranger.get("/v1/clusters")).toEqual({ items: [], nextCursor: null });
    await warm.node.finish(task, succeeded());
    await test.api.ended(job.id);
  });
});
