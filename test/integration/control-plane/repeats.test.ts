import { type Cluster, type Job, mintId, type Outcome } from "@frazil/contracts";
import { Pool } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Answer, NDJSON, problemOf } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { createDatabase } from "../../harness/databases.ts";
import { makePlaneSetting } from "../../harness/plane-process.ts";
import { failed, manyFrames, oneQuery, SHAPE, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

const AT_ONCE = 100;

let test: TestControlPlane;
let warm: WarmCluster;
let failedJob: Job;
beforeAll(async () => {
  test = await startTestControlPlane();
  warm = await test.warmCluster();
  const taken = await warm.submitAndTake();
  await warm.node.finish(taken.task, failed("query_failed", "no", false));
  failedJob = await test.api.ended(taken.job.id);
});
afterAll(() => test.close());

interface Case {
  readonly path: () => string;
  readonly body?: () => unknown;
  readonly type?: string;
  /** Another request under the same key. */
  readonly other: () => { path: string; body?: unknown };
  readonly table: "jobs" | "clusters";
}

/** Every route that makes something. */
const CASES: Record<string, Case> = {
  "a submission": {
    path: () => "/v1/jobs",
    body: () => oneQuery({ context: null, clusterId: warm.clusterId as never }),
    other: () => ({ path: "/v1/jobs", body: oneQuery({ name: "another" }) }),
    table: "jobs",
  },
  "a stream of frames": {
    path: () => "/v1/jobs",
    body: () => manyFrames(["a", "b"], [0, 1, 0], { context: null, clusterId: warm.clusterId as never }),
    type: NDJSON,
    other: () => ({ path: "/v1/jobs", body: manyFrames(["a", "b"], [1, 1, 0]) }),
    table: "jobs",
  },
  "a retry": {
    path: () => `/v1/jobs/${failedJob.id}/retry`,
    other: () => ({ path: "/v1/jobs", body: oneQuery() }),
    table: "jobs",
  },
  "a start of a cluster": {
    path: () => "/v1/clusters",
    body: () => ({ context: { ...SHAPE, memoryGiB: 3 } }),
    other: () => ({ path: "/v1/clusters", body: { context: { ...SHAPE, memoryGiB: 4 } } }),
    table: "clusters",
  },
};

describe.each(Object.entries(CASES))("%s with an idempotency key", (name, one) => {
  const key = `key of ${name}`;
  const post = (path: string, body: unknown, type = "application/json") =>
    test.api.request<{ id: string }>("POST", path, {
      ...(body === undefined ? {} : { body }),
      headers: { "idempotency-key": key, ...(body === undefined ? {} : { "content-type": type }) },
    });
  const count = async () => (await test.sql<{ n: number }>(`SELECT count(*)::int AS n FROM ${one.table}`))[0]?.n ?? 0;

  it(`is carried out once of ${AT_ONCE} at the same moment, and all get the same answer`, async () => {
    const before = await count();
    const send = () => post(one.path(), one.body?.(), one.type);
    const answers = await Promise.all(Array.from({ length: AT_ONCE }, send));
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([202]));
    expect(new Set(answers.map((answer) => answer.body.id)).size).toBe(1);
    expect(await count()).toBe(before + 1);
    // Later too.
    expect((await send()).body.id).toBe(answers[0]?.body.id);
  });

  it("refuses another request under the same key", async () => {
    const before = await count();
    const { path, body } = one.other();
    const type = typeof body === "string" ? NDJSON : "application/json";
    const answer: Answer = await post(path, body, type);
    expect(problemOf(answer)).toMatchObject({ status: 422, code: "idempotency_mismatch" });
    expect(await count()).toBe(before);
  });

  it("is another one without the key, and in another workspace", async () => {
    if (name === "a retry") return expect((await test.api.post<Job>(one.path())).id).not.toBe(undefined);
    const body = one.table === "clusters" ? one.body?.() : oneQuery();
    const made = await test.stranger.request<Job | Cluster>("POST", one.path(), {
      body,
      headers: { "idempotency-key": key },
    });
    expect(made.status).toBe(202);
  });
});

describe("a repeat of a submission whose cluster is gone", () => {
  const bodies: Record<string, (clusterId: string) => unknown> = {
    "one query": (clusterId) => oneQuery({ context: null, clusterId }),
    "a stream of frames": (clusterId) => manyFrames(["a"], [0, 0], { context: null, clusterId }),
  };

  it.each(Object.entries(bodies))("gets the job that the first made: %s", async (name, bodyOn) => {
    const { clusterId } = await test.warmCluster();
    const send = (key: string, body = bodyOn(clusterId)) => {
      const type = typeof body === "string" ? NDJSON : "application/json";
      const headers = { "idempotency-key": key, "content-type": type };
      return test.api.request<Job>("POST", "/v1/jobs", { body, headers });
    };
    const first = await send(name);
    expect(first.status).toBe(202);
    await test.api.post(`/v1/clusters/${clusterId}/stop`);
    const again = await send(name);
    expect([again.status, again.body.id]).toEqual([202, first.body.id]);
    // What the cluster would say to another request, and another key to this one.
    const other = await send(name, oneQuery({ name: "another", context: null, clusterId }));
    expect(problemOf(other)).toMatchObject({ status: 422, code: "idempotency_mismatch" });
    expect(problemOf(await send(`another ${name}`))).toMatchObject({ status: 409, code: "conflict" });
  });
});

describe("a repeat whose job has gone on", () => {
  it("says what became of it: a submission, and a retry", async () => {
    const own = await test.warmCluster();
    const expectToldOf = async (send: () => Promise<Job>, end: Outcome, told: object) => {
      const { id } = await send();
      const { task } = await own.node.takeRun();
      expect(await send()).toMatchObject({ id, status: "running", counts: { running: 1, queued: 0 } });
      await own.node.finish(task, end);
      await test.api.ended(id);
      expect(await send()).toMatchObject({ id, ...told });
      return id;
    };
    const query = oneQuery({ context: null, clusterId: own.clusterId as never });
    const no = failed("query_failed", "no", false);
    const submit = () => test.api.submit(query, { idempotencyKey: "gone on" });
    const id = await expectToldOf(submit, no, { status: "failed", error: { message: "no" } });
    const headers = { "idempotency-key": "retried" };
    const retry = async () => (await test.api.request<Job>("POST", `/v1/jobs/${id}/retry`, { headers })).body;
    await expectToldOf(retry, succeeded(7), { status: "succeeded", result: { rows: 7 } });
  });
});

/** The beginning of a body, whose end does not come. */
function heldBack(body: string, at: number): ReadableStream<Uint8Array> {
  return new ReadableStream({ start: (controller) => controller.enqueue(Buffer.from(body.slice(0, at))) });
}

const TWO_STARTS_MS = 120_000;

describe("a submission whose control plane is killed half-way", { timeout: TWO_STARTS_MS }, () => {
  it("leaves nothing but plans, and is made once by its repeats", async () => {
    const database = await createDatabase();
    const setting = await makePlaneSetting(database.url);
    const pool = new Pool({ connectionString: database.url, max: 2 });
    const count = async (table: string) => (await pool.query(`SELECT count(*)::int AS n FROM ${table}`)).rows[0].n;
    try {
      const first = await setting.start();
      // A cluster that nobody looks after, so that no machine is started.
      const clusterId = mintId("cluster");
      await pool.query(
        `INSERT INTO clusters (id, workspace_id, cloud, shape, shape_hash, status, idle_timeout_seconds, due_at)
          SELECT $1, id, 'local', $2, 'none', 'starting', 600, 'infinity' FROM workspaces`,
        [clusterId, { cloud: "local", ...SHAPE, gpus: 0, clusterSize: 1 }],
      );
      const plans = Array.from({ length: 450 }, (_, at) => `plan ${at}`);
      const frames = [...plans.keys(), 0, 1];
      const body = manyFrames(plans, frames, { context: null, clusterId });
      const sent = first.api.request("POST", "/v1/jobs", {
        body: heldBack(body, body.indexOf('{"line":"frames"')),
        headers: { "content-type": NDJSON, "idempotency-key": "half" },
      });
      const lost = expect(sent).rejects.toThrow();
      await waitUntil("plans are stored", async () => (await count("plans")) >= 400);
      await first.kill();
      await lost;
      expect(await count("jobs")).toBe(0);
      const second = await setting.start();
      const again = () => second.api.submit(body, { idempotencyKey: "half" });
      const jobs = await Promise.all([again(), again(), again()]);
      expect(new Set(jobs.map((job) => job.id)).size).toBe(1);
      expect([await count("jobs"), await count("tasks"), await count("plans")]).toEqual([
        1,
        frames.length,
        plans.length,
      ]);
    } finally {
      await setting.close();
      await pool.end();
      await database.drop();
    }
  });
});
