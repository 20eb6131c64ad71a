import type { Cluster } from "@frazil/contracts";
import { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { startTestControlPlane, type TestControlPlane } from "../../harness/control-plane.ts";
import { oneQuery, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

const OUTPUT = { output: { destination: "/data/out", format: "parquet" } } as const;

let test: TestControlPlane;
beforeAll(async () => {
  test = await startTestControlPlane();
});
afterAll(() => test.close());
beforeEach(() => {
  // Machines stay until a test takes them away.
  test.cloud.drainsAtOnce = false;
});

const stop = (clusterId: string) => test.api.post<Cluster>(`/v1/clusters/${clusterId}/stop`);
const untilDraining = (nodeId: string) =>
  waitUntil("the node is told to drain", () => test.cloud.destroyed.some((one) => one.nodeId === nodeId));
const untilStopping = (nodeId: string) =>
  waitUntil("the node stops", async () => {
    const rows = await test.sql<{ status: string }>("SELECT status FROM nodes WHERE id = $1", [nodeId]);
    return rows[0]?.status === "stopping";
  });

const WAITING =
  "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND pg_stat_activity.datname = current_database()";

/** Does what another process does in a transaction of its own, and whatever happens before that is committed. */
async function within(statement: string, values: readonly unknown[], meanwhile: () => Promise<unknown>): Promise<void> {
  const client = new Client({ connectionString: test.database.url });
  await client.connect();
  await client.query("BEGIN");
  await client.query(statement, [...values]);
  await meanwhile();
  await client.query("COMMIT");
  await client.end();
}

describe("a node that stops with its cluster", () => {
  it("may lose its connection, and still says how what it runs ended, and what it logged", async () => {
    const warm = await test.warmCluster();
    const { shape } = await test.api.cluster(warm.clusterId);
    // Not pinned: it is not ended with the cluster.
    const job = await test.api.submit(oneQuery({ context: shape }));
    const { task } = await warm.node.takeRun();
    await stop(warm.clusterId);
    await untilStopping(warm.node.id);
    await warm.node.disconnect();
    await warm.node.reconnect([task]);
    const at = new Date().toISOString();
    await warm.node.log([{ taskId: task.taskId, attempt: 1, seq: 0, stream: "stdout", at, text: "nearly done" }]);
    expect(await warm.node.finish(task, succeeded(4))).toBe(true);
    expect(await test.api.ended(job.id)).toMatchObject({ status: "succeeded", logLines: 1, result: { rows: 4 } });
    test.cloud.lose(warm.node.id);
  });
});

describe("a node that was told to drain", () => {
  it("is ended by force when that takes too long, though it speaks on", async () => {
    const warm = await test.warmCluster();
    await stop(warm.clusterId);
    await untilStopping(warm.node.id);
    const urgencies = () => test.cloud.destroyed.flatMap((one) => (one.nodeId === warm.node.id ? [one.urgency] : []));
    expect(await warm.node.beat([])).toEqual([]);
    expect(urgencies()).not.toContain("force");
    await test.sql("UPDATE nodes SET stopping_at = now() - interval '61 s' WHERE id = $1", [warm.node.id]);
    test.hurry("stop", warm.clusterId);
    await waitUntil("it is ended by force", () => urgencies().includes("force"));
    test.cloud.lose(warm.node.id);
  });
});

describe("a job that is publishing while its cluster is stopped", () => {
  it("has succeeded, without a word of the cluster, when that went well", async () => {
    const warm = await test.warmCluster();
    const { job, task } = await warm.submitAndTake(OUTPUT);
    expect(await warm.node.stage(task)).toBe("publish");
    await stop(warm.clusterId);
    await untilDraining(warm.node.id);
    expect(await warm.node.finish(task, succeeded(4))).toBe(true);
    expect(await test.api.ended(job.id)).toMatchObject({ status: "succeeded", error: null });
    test.cloud.lose(warm.node.id);
  });

  it("ends when the node is lost at it, also when it was to be cancelled before", async () => {
    const warm = await test.warmCluster();
    const { job, task } = await warm.submitAndTake(OUTPUT);
    expect(await warm.node.stage(task)).toBe("publish");
    expect(await test.api.post(`/v1/jobs/${job.id}/cancel`)).toMatchObject({ status: "running" });
    await stop(warm.clusterId);
    await untilDraining(warm.node.id);
    await warm.node.disconnect();
    test.cloud.lose(warm.node.id);
    test.hurry("stop", warm.clusterId);
    expect(await test.api.ended(job.id)).toMatchObject({ status: "failed", error: { code: "cluster_failed" } });
  });
});

describe("a cluster", () => {
  it("that was given up takes its jobs along, whoever of several control planes ends it", async () => {
    const warm = await test.warmCluster();
    const { shape } = await test.api.cluster(warm.clusterId);
    const job = await test.api.submit(oneQuery({ context: shape }));
    const error = { code: "capacity", message: "no machine is left" };
    await test.sql("UPDATE clusters SET status = 'stopping', error = $2 WHERE id = $1", [warm.clusterId, error]);
    test.hurry("stop", warm.clusterId);
    expect(await test.api.ended(job.id)).toMatchObject({ status: "failed", clusterId: warm.clusterId, error });
    test.cloud.lose(warm.node.id);
  });

  it("is not started for a job that ends as it is placed", async () => {
    const context = { cpus: 1, memoryGiB: 33 };
    const cluster = await test.api.post<Cluster>("/v1/clusters", { context });
    await test.sql("UPDATE clusters SET status = 'terminated' WHERE id = $1", [cluster.id]);
    const [{ key } = { key: "" }] = await test.sql<{ key: string }>(
      "SELECT 'place ' || workspace_id || ' ' || shape_hash AS key FROM clusters WHERE id = $1",
      [cluster.id],
    );
    // Whoever places a job of this shape waits here, in the middle.
    let cancelling: Promise<unknown> | undefined;
    let id = "";
    await within("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", [key], async () => {
      ({ id } = await test.api.submit(oneQuery({ context })));
      await waitUntil("somebody waits", async () => (await test.sql(WAITING)).length > 0);
      cancelling = test.api.post(`/v1/jobs/${id}/cancel`);
      await waitUntil(
        "the cancel waits, or is done",
        async () => (await test.sql(WAITING)).length > 1 || (await test.api.job(id)).finishedAt !== null,
      );
    });
    await cancelling;
    const job = await test.api.ended(id);
    const made = await test.sql<{ id: string }>(
      "SELECT id FROM clusters WHERE shape ->> 'memoryGiB' = '33' AND id <> $1",
      [cluster.id],
    );
    expect(job.status).toBe("cancelled");
    expect(made.map((one) => one.id)).toEqual(job.clusterId === null ? [] : [job.clusterId]);
  });

  it("that another process holds does not keep a control plane from starting", async () => {
    const warm = await test.warmCluster();
    await test.sql("UPDATE clusters SET due_at = now() + interval '4 minutes' WHERE id = $1", [warm.clusterId]);
    await within("SELECT 1 FROM clusters WHERE id = $1 FOR UPDATE", [warm.clusterId], async () => {
      const started = await startTestControlPlane({ beside: test });
      await started.close();
    });
  });
});
