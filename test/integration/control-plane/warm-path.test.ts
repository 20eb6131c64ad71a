import { NODE_ENV } from "@frazil/contracts";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { type FakeNode, letWork, startFakeNode, USAGE } from "../../harness/fake-node.ts";
import { oneQuery, planBytesOf, planOf, SHAPE, specOf, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let test: TestControlPlane;
beforeAll(async () => {
  test = await startTestControlPlane();
});
afterAll(() => test.close());

/** All that is written of a job, without ids, times and secrets. */
async function rowsOf(jobId: string): Promise<unknown[]> {
  const different =
    "'{id,job_id,task_id,sealed,request_hash,idempotency_key,created_at,started_at,finished_at,leased_at,at,revision}'::text[]";
  const rows = await Promise.all(
    ["jobs", "tasks", "attempts", "results", "events"].map((table) =>
      test.sql(
        `SELECT '${table}' AS "table", to_jsonb(r) - ${different} AS row FROM ${table} r WHERE ${table === "jobs" ? "id" : "job_id"} = $1
          ORDER BY ${table === "events" ? "id" : 1}`,
        [jobId],
      ),
    ),
  );
  return rows.flat();
}

describe("a job with a warm cluster", () => {
  let node: FakeNode;
  let clusterId: string;
  let submit: WarmCluster["submit"];
  beforeAll(async () => {
    ({ node, clusterId, submit } = await test.warmCluster());
  });

  it("is leased at once and answered in the submitting request, and crosses no queue", async () => {
    const sent = vi.spyOn(test.plane.deps.queue, "send");
    const answer = submit({}, { waitSeconds: 20 });
    const { run, template, task } = await node.takeRun();
    expect({ ...run, planId: "" }).toEqual({
      kind: "query",
      tasks: [{ taskId: task.taskId, attempt: 1, frame: null, keyToken: null, keyPath: null }],
      planId: "",
      planKind: "dsl",
      plan: planBytesOf("a plan").toString("base64"),
      slots: SHAPE.cpus,
      publish: null,
    });
    expect(template).toMatchObject({ workspaceId: test.workspaceId, engine: "auto", output: { format: "ipc" } });
    node.start([task]);
    expect(await node.finish(task, succeeded(7))).toBe(true);
    const job = await answer;
    expect(job).toMatchObject({ status: "succeeded", clusterId, counts: { total: 1, succeeded: 1, queued: 0 } });
    expect(job.result).toMatchObject({ taskId: task.taskId, rows: 7, locations: ["/results/7.arrow"] });
    expect(Buffer.from(job.result?.head ?? "", "base64").toString()).toBe("head of 7");
    expect(sent.mock.calls.filter(([, id]) => id === job.id)).toEqual([]);
    sent.mockRestore();
  });

  it("leaves the same rows whether its end is recorded alone or together with others", async () => {
    const { recorder, dispatcher } = test.plane.deps;
    const alone = await submit();
    await node.finish((await node.takeRun()).task, succeeded(7));
    await test.api.ended(alone.id);

    const together = await submit();
    const { task } = await node.takeRun();
    const report = (taskId: string) => ({
      nodeId: node.id,
      message: {
        type: "finished" as const,
        taskId,
        attempt: 1,
        outcome: succeeded(7),
        usage: USAGE,
        openedPython: false,
      },
    });
    // While the first one is written, the others wait, and then go in one batch.
    const accepted = ["task_unknown", task.taskId, "task_unknown_too"].map((id) => recorder.finished(report(id)));
    expect(await Promise.all(accepted)).toEqual([false, true, false]);
    dispatcher.release(node.id, task, undefined);
    expect((await test.api.ended(together.id)).result?.rows).toBe(7);
    expect(await rowsOf(together.id)).toEqual(await rowsOf(alone.id));
  });

  it("answers with the job as it is when the wait is over before the job", async () => {
    const job = await submit({}, { waitSeconds: 0.05 });
    expect(job.finishedAt).toBeNull();
    const { task } = await node.takeRun();
    await node.finish(task, succeeded());
    expect((await test.api.ended(job.id)).status).toBe("succeeded");
  });

  it("gives a plan that is too large for a message by HTTP, byte for byte", async () => {
    const content = "x".repeat(100_000);
    const job = await submit({}, { content });
    const { run, task } = await node.takeRun();
    expect(run.plan).toBeNull();
    const response = await fetch(`${test.address}/v1/agent/plans/${run.planId}`, {
      headers: { authorization: `Bearer ${node.token}` },
    });
    expect(response.headers.get("content-type")).toBe("application/octet-stream");
    expect(Buffer.from(await response.arrayBuffer()).equals(planBytesOf(content))).toBe(true);
    await node.finish(task, succeeded());
    await test.api.ended(job.id);
  });

  it("gives a lease that is too large for a message by reference", async () => {
    const env = { LARGE: "v".repeat(32_000), LARGER: "w".repeat(32_000) };
    const job = await submit({ context: { ...SHAPE, env } });
    await node.take("lease_by_reference");
    const { template, task } = await node.takeRun();
    expect(template.env).toEqual(env);
    await node.finish(task, succeeded());
    await test.api.ended(job.id);
  });

  it("stores a plan once, however often it is submitted", async () => {
    const jobs = await Promise.all([1, 2, 3].map(() => submit({}, { content: "the same plan" })));
    for (const _ of jobs) await node.finish((await node.takeRun()).task, succeeded());
    const used = await test.sql<{ n: number }>(
      "SELECT count(DISTINCT plan_id)::int AS n FROM tasks WHERE job_id = ANY($1)",
      [jobs.map((job) => job.id)],
    );
    expect(used).toEqual([{ n: 1 }]);
  });

  it("does not keep a head that is larger than the limit, and keeps the result", async () => {
    const answer = submit({}, { waitSeconds: 20 });
    const { task } = await node.takeRun();
    const outcome = succeeded(3);
    await node.finish(task, { ...outcome, head: Buffer.alloc(70_000).toString("base64") } as typeof outcome);
    expect((await answer).result).toMatchObject({ rows: 3, head: null });
  });

  it("runs SQL text too", async () => {
    const text = "SELECT 1 AS x";
    const job = await test.api.submit({ spec: specOf({ context: null, clusterId }), plan: { kind: "sql", text } });
    const { run, task } = await node.takeRun();
    expect(run).toMatchObject({ planKind: "sql", plan: Buffer.from(text).toString("base64") });
    await node.finish(task, succeeded());
    expect((await test.api.ended(job.id)).status).toBe("succeeded");
  });
});

describe("a job without a cluster", () => {
  it("makes one: the intent is committed before the cloud is asked, then the job runs", async () => {
    const seen: unknown[] = [];
    test.cloud.answerOrder = async (order) => {
      seen.push(
        await test.sql(
          "SELECT n.status, c.status AS cluster FROM nodes n JOIN clusters c ON c.id = n.cluster_id WHERE n.id = $1",
          [order.nodeId],
        ),
      );
      return undefined;
    };
    const first = test.cloud.orders.length;
    const job = await test.api.submit(oneQuery({ context: { cpus: 3, memoryGiB: 2 } }));
    expect(job).toMatchObject({ status: "queued", clusterId: null });
    const order = await test.cloud.order(first);
    test.cloud.answerOrder = undefined;
    expect(order).toMatchObject({ workspaceId: test.workspaceId, shape: { cpus: 3, memoryGiB: 2, clusterSize: 1 } });
    expect(order.environment[NODE_ENV.address]).toBe(test.address);
    expect(seen).toEqual([[{ status: "requested", cluster: "starting" }]]);
    const node = await startFakeNode(order);
    const work = letWork(node, () => succeeded(5));
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({ status: "succeeded", clusterId: order.clusterId, result: { rows: 5 } });
    await work.stop();
    await node.disconnect();
  });

  it("shares one new cluster with the others that come at the same moment", async () => {
    const context = { cpus: 4, memoryGiB: 2 };
    const first = test.cloud.orders.length;
    const jobs = await Promise.all(Array.from({ length: 10 }, () => test.api.submit(oneQuery({ context }))));
    const node = await startFakeNode(await test.cloud.order(first));
    const work = letWork(node, () => succeeded());
    const done = await Promise.all(jobs.map((job) => test.api.ended(job.id)));
    expect(new Set(done.map((job) => job.clusterId)).size).toBe(1);
    expect(test.cloud.orders.slice(first)).toHaveLength(1);
    await work.stop();
    await node.disconnect();
  });

  it("orders no node twice, however often and by whomever the cluster is looked after", async () => {
    const first = test.cloud.orders.length;
    const { id } = await test.api.post<{ id: string }>("/v1/clusters", {
      context: { cpus: 1, memoryGiB: 1, clusterSize: 3 },
    });
    for (let time = 0; time < 20; time++) {
      test.plane.deps.queue.send("provision", id);
      test.plane.deps.queue.send("supervise", id);
    }
    await waitUntil("every order was made", () => test.cloud.orders.length >= first + 3);
    await waitUntil("the queue is empty", async () => {
      const rows = await test.sql<{ due: boolean }>("SELECT due_at > now() AS due FROM clusters WHERE id = $1", [id]);
      return rows[0]?.due;
    });
    const nodes = await test.sql("SELECT id FROM nodes WHERE cluster_id = $1", [id]);
    expect(nodes).toHaveLength(3);
    expect(test.cloud.orders.slice(first)).toHaveLength(3);
  });

  it("fails with the cloud's own words when there is no capacity", async () => {
    test.cloud.answerOrder = () => ({ kind: "no_capacity", detail: "no machine with 5 cores is left in this region" });
    const job = await test.api.submit(oneQuery({ context: { cpus: 5, memoryGiB: 1 } }), { waitSeconds: 20 });
    test.cloud.answerOrder = undefined;
    expect(job).toMatchObject({ status: "failed", error: { code: "capacity" }, counts: { failed: 1 } });
    expect(job.error?.message).toContain("no machine with 5 cores is left");
    const cluster = await test.api.get<{ status: string }>(`/v1/clusters/${job.clusterId}/wait?timeout=20`);
    expect(cluster.status).toBe("terminated");
  });

  it("is refused before anything is stored when the cloud can't serve its shape", async () => {
    test.cloud.refusalText = "this cloud has no GPUs; ask for gpus=0";
    const answer = await test.api.request<{ code: string; detail: string }>("POST", "/v1/jobs", {
      body: { spec: specOf({ context: { ...SHAPE, gpus: 1 } }), plan: planOf("never stored") },
    });
    test.cloud.refusalText = undefined;
    expect(answer.status).toBe(422);
    expect(answer.body).toMatchObject({ code: "not_available", detail: "this cloud has no GPUs; ask for gpus=0" });
    const elsewhere = await test.api.request<{ code: string; detail: string }>("POST", "/v1/jobs", {
      body: { spec: specOf({ context: { ...SHAPE, cloud: "mars" } }), plan: planOf("never stored") },
    });
    expect([elsewhere.status, elsewhere.body.code]).toEqual([422, "not_available"]);
    expect(elsewhere.body.detail).toContain('The cloud "mars" is not connected');
    const sealed = await test.sql<{ size: number }>("SELECT size_bytes AS size FROM plans");
    expect(sealed.map((plan) => plan.size)).not.toContain(planBytesOf("never stored").length);
  });
});
