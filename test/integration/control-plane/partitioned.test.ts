import { KEYS_PER_RUN_MAX, type Outcome, type TaskRef } from "@frazil/contracts";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { readPages } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { type LeasedRun, letWork } from "../../harness/fake-node.ts";
import { failed, manyFrames, splitInto, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let test: TestControlPlane;
let warm: WarmCluster;
beforeAll(async () => {
  test = await startTestControlPlane();
  // What is tried again waits for `dueNow`: else its wait might be over before the test has gone on. The column keeps milliseconds.
  await test.sql(
    "CREATE FUNCTION wait_longer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.not_before = now() + interval '30 s'; RETURN NEW; END $$",
  );
  await test.sql(
    "CREATE TRIGGER wait_longer BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.not_before > now() + interval '10 ms') EXECUTE FUNCTION wait_longer()",
  );
});
afterAll(() => test.close());
beforeEach(async () => {
  warm = await test.warmCluster({ cpus: 4 });
});

const partitionBy = { keys: [{ name: "day", expr: Buffer.from("an expression").toString("base64") }] };

/** Submits a partitioned query, and answers its search for keys. */
async function submitAndSplit(split: Outcome, over: object = {}) {
  const { job, run, task } = await warm.submitAndTake({ partitionBy, ...over });
  expect(run).toMatchObject({ kind: "split", slots: 4, publish: null });
  expect(await warm.node.finish(task, split)).toBe(true);
  return job.id;
}
/** The values of the keys of a run, as numbers. */
const daysOf = ({ run }: LeasedRun) => run.tasks.map((task) => Number(task.keyPath?.slice("day=".length)));
async function dueNow(jobId: string): Promise<void> {
  await test.sql("UPDATE tasks SET not_before = now() WHERE job_id = $1", [jobId]);
  test.hurry("dispatch", warm.clusterId);
}

describe("a partitioned query", () => {
  it("finds its keys first, then runs all of them in one run on one node, with what the search handed on", async () => {
    const { job, task } = await warm.submitAndTake({ partitionBy, output: { destination: "/out", format: "parquet" } });
    expect(job).toMatchObject({ mode: "partitioned", partitionBy: ["day"], counts: { total: 0 } });
    warm.node.start([task]);
    await waitUntil("it says what it does", async () => (await test.api.job(job.id)).phase === "finding the keys");
    await warm.node.finish(task, splitInto(5, "an opaque state"));
    const leased = await warm.node.takeRun();
    expect(leased.run).toMatchObject({ kind: "key", slots: 4 });
    expect(leased.template).toMatchObject({ splitState: "an opaque state", partitionBy });
    expect(leased.run.tasks.map(({ keyToken, keyPath, attempt }) => [keyToken, keyPath, attempt])).toEqual(
      [0, 1, 2, 3, 4].map((day) => [`token ${day}`, `day=${day}`, 1]),
    );
    expect((await test.api.job(job.id)).counts).toMatchObject({ total: 5, running: 5 });
    for (const one of [...leased.run.tasks].reverse()) await warm.node.finish(one, succeeded(dayOf(one)));
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({ status: "succeeded", counts: { total: 5, succeeded: 5 } });
    const results = await test.api.results(job.id);
    expect(results.map(({ key, rows }) => [key, rows])).toEqual(
      [0, 1, 2, 3, 4].map((day) => [{ day: String(day) }, day]),
    );
    expect((await test.api.tasks(job.id)).map((one) => one.key)).toEqual(results.map((result) => result.key));
  });

  it("succeeds with nothing when there are no keys", async () => {
    const id = await submitAndSplit(splitInto(0));
    const done = await test.api.ended(id);
    expect(done).toMatchObject({ status: "succeeded", error: null, counts: { total: 0, failed: 0 } });
    expect(await test.api.results(id)).toEqual([]);
  });

  it("fails as one task when the keys can't be found, which is listed, and can be retried", async () => {
    const id = await submitAndSplit(failed("invalid_key", "no column day in the source", false));
    const done = await test.api.ended(id);
    expect(done).toMatchObject({ status: "failed", error: { code: "invalid_key" }, counts: { total: 1, failed: 1 } });
    expect((await test.api.tasks(id)).map((task) => [task.status, task.error?.code])).toEqual([
      ["failed", "invalid_key"],
    ]);
    const retry = await test.api.post<{ id: string }>(`/v1/jobs/${id}/retry`);
    const again = await warm.node.takeRun();
    expect(again.run.kind).toBe("split");
    await warm.node.finish(again.task, splitInto(1));
    await warm.node.finish((await warm.node.takeRun()).task, succeeded(9));
    expect(await test.api.ended(retry.id)).toMatchObject({ status: "succeeded", counts: { total: 1, succeeded: 1 } });
  });

  it("fails when a node answers the search with a result, and a key with keys", async () => {
    const id = await submitAndSplit(succeeded());
    expect(await test.api.ended(id)).toMatchObject({ status: "failed", error: { code: "internal" } });
    const other = await submitAndSplit(splitInto(1));
    await warm.node.finish((await warm.node.takeRun()).task, splitInto(3));
    expect(await test.api.ended(other)).toMatchObject({ status: "failed", counts: { total: 1, failed: 1 } });
  });

  it("runs only the keys that failed in a retry, without searching again", async () => {
    const id = await submitAndSplit(splitInto(4, "kept for the retry"));
    const first = await warm.node.takeRun();
    for (const task of first.run.tasks) {
      await warm.node.finish(task, dayOf(task) % 2 === 0 ? succeeded() : failed("query_failed", "odd", false));
    }
    expect(await test.api.ended(id)).toMatchObject({ status: "failed", counts: { total: 4, succeeded: 2, failed: 2 } });
    const retry = await test.api.post<{ id: string }>(`/v1/jobs/${id}/retry`);
    const again = await warm.node.takeRun();
    expect(again.run.kind).toBe("key");
    expect(again.template.splitState).toBe("kept for the retry");
    expect(daysOf(again)).toEqual([1, 3]);
    for (const task of again.run.tasks) await warm.node.finish(task, succeeded(dayOf(task)));
    expect((await test.api.ended(retry.id)).status).toBe("succeeded");
    expect((await test.api.results(retry.id)).map((result) => result.key)).toEqual([{ day: "1" }, { day: "3" }]);
  });

  it("is tried again in smaller runs when a run is lost, to find the key that breaks it", async () => {
    const id = await submitAndSplit(splitInto(16));
    expect(daysOf(await warm.node.takeRun())).toHaveLength(16);
    await warm.node.reconnect([]);
    await dueNow(id);
    const next = await warm.node.takeRun();
    expect(next.run.tasks.map((task) => task.attempt)).toEqual([2, 2]);
    await test.api.post(`/v1/jobs/${id}/cancel`);
  });

  it("publishes each key by itself, and goes on with those of a lost run that had begun to", async () => {
    const id = await submitAndSplit(splitInto(2), { output: { destination: "/out", format: "parquet" } });
    const [first, second] = (await warm.node.takeRun()).run.tasks as [TaskRef, TaskRef];
    expect(await warm.node.stage(first, { key: "first" })).toBe("publish");
    await warm.node.reconnect([]);
    await dueNow(id);
    const runs = [await warm.node.takeRun()];
    await warm.node.finish(runs[0]?.task as TaskRef, succeeded());
    await dueNow(id);
    runs.push(await warm.node.takeRun());
    await warm.node.finish(runs[1]?.task as TaskRef, succeeded());
    expect(runs.map(({ run }) => [run.tasks.map((task) => task.taskId), run.publish])).toEqual([
      [[first.taskId], { manifest: { key: "first" } }],
      [[second.taskId], null],
    ]);
    expect((await test.api.ended(id)).status).toBe("succeeded");
  });

  it("can be cancelled while it searches: the keys that come late are not taken", async () => {
    const { job, task } = await warm.submitAndTake({ partitionBy });
    const cancelled = await test.api.post(`/v1/jobs/${job.id}/cancel`);
    expect(cancelled).toMatchObject({ status: "cancelled", counts: { total: 1, cancelled: 1 } });
    expect(await warm.node.finish(task, splitInto(3))).toBe(false);
    expect(await test.sql("SELECT kind, status FROM tasks WHERE job_id = $1", [job.id])).toEqual([
      { kind: "split", status: "cancelled" },
    ]);
  });

  it("may have thousands of keys with long names: runs are bounded, and what is too large goes by reference", async () => {
    const count = KEYS_PER_RUN_MAX + 500;
    const name = "日".repeat(60);
    const keys = Array.from({ length: count }, (_, index) => ({
      values: { day: `${name}${index}` },
      path: `day=${name}${index}`,
      token: `token ${index}`,
    }));
    const id = await submitAndSplit({ kind: "split", keys, splitState: null });
    const work = letWork(warm.node, () => succeeded());
    const done = await test.api.ended(id);
    await work.stop();
    expect(done.counts).toMatchObject({ total: count, succeeded: count });
    expect(work.done.map(({ run }) => run.tasks.length)).toEqual([KEYS_PER_RUN_MAX, 500]);
    expect(warm.node.received.filter((message) => message.type === "lease_by_reference")).toHaveLength(2);
    expect(work.done.flatMap(({ run }) => run.tasks.map((task) => task.keyPath))).toEqual(keys.map((key) => key.path));
  });

  it("shares its keys out among the nodes of a cluster", async () => {
    const pair = await test.warmCluster({ clusterSize: 2 });
    const job = await pair.submit({ partitionBy });
    const work = pair.nodes.map((node) =>
      letWork(node, (task, { run }) => (run.kind === "split" ? splitInto(10) : succeeded(dayOf(task)))),
    );
    expect((await test.api.ended(job.id)).counts).toMatchObject({ total: 10, succeeded: 10 });
    for (const one of work) await one.stop();
    const sizes = work.flatMap((one) =>
      one.done.filter(({ run }) => run.kind === "key").map(({ run }) => run.tasks.length),
    );
    expect(sizes).toEqual([5, 5]);
  });
});

const dayOf = (task: TaskRef) => Number(task.keyPath?.slice("day=".length));

describe("many frames times a key", () => {
  it("search each frame, and give results by frame, then by key, whichever search ended first", async () => {
    const body = manyFrames(["a", "b"], [0, 1, 0], { context: null, clusterId: warm.clusterId, partitionBy });
    const job = await test.api.submit(body);
    const searches = new Map<number, LeasedRun>();
    // A search takes a whole node: they come one after the other, and are answered in the other order by giving them back.
    for (const frame of [0, 1, 2]) {
      const leased = await warm.node.takeRun();
      searches.set(leased.task.frame ?? -1, leased);
      expect(leased.task.frame).toBe(frame);
      if (frame < 2) {
        await warm.node.finish(leased.task, failed("engine_lost", "once"));
        continue;
      }
      await warm.node.finish(leased.task, splitInto(2));
    }
    await dueNow(job.id);
    const work = letWork(warm.node, (task, { run }) =>
      run.kind === "split" ? splitInto(2) : succeeded(10 * (task.frame ?? 0) + dayOf(task)),
    );
    const done = await test.api.ended(job.id);
    await work.stop();
    expect(done).toMatchObject({ status: "succeeded", counts: { total: 6, succeeded: 6 } });
    const wanted = [0, 1, 2].flatMap((frame) => [0, 1].map((day) => [frame, { day: String(day) }, 10 * frame + day]));
    const path = `/v1/jobs/${job.id}/results?limit=4`;
    const results = await readPages<{ frame: number; key: object; rows: number }>(test.api, path);
    expect(results.map(({ frame, key, rows }) => [frame, key, rows])).toEqual(wanted);
    const tasks = await readPages<{ frame: number; key: object }>(test.api, `/v1/jobs/${job.id}/tasks?limit=4`);
    expect(tasks.map(({ frame, key }) => [frame, key])).toEqual(wanted.map((row) => row.slice(0, 2)));
  });
});
