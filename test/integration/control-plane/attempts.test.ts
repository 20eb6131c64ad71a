import type { Job } from "@frazil/contracts";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import {
  makeThereFor,
  startTestControlPlane,
  type TestControlPlane,
  type WarmCluster,
} from "../../harness/control-plane.ts";
import { type FakeNode, type LeasedRun, letWork } from "../../harness/fake-node.ts";
import { failed, released, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let test: TestControlPlane;
let node: FakeNode;
let clusterId: string;
let submit: WarmCluster["submit"];
let submitAndTake: WarmCluster["submitAndTake"];
beforeAll(async () => {
  test = await startTestControlPlane();
  makeThereFor(test, Number.POSITIVE_INFINITY);
});
afterAll(() => test.close());
/** Each test has a node of its own: one that loses slots fails alone. */
beforeEach(async () => {
  ({ node, clusterId, submit, submitAndTake } = await test.warmCluster());
});

/** The lease's time has passed, as the database sees it. */
async function letLeaseExpire(taskId: string): Promise<void> {
  await test.sql("UPDATE tasks SET lease_expires_at = now() - interval '1 second' WHERE id = $1", [taskId]);
  test.hurry("expire", "leases");
}
/** What waits for a retry is due now. */
async function skipBackoff(taskId: string): Promise<void> {
  await test.sql("UPDATE tasks SET not_before = now() WHERE id = $1", [taskId]);
  test.hurry("dispatch", clusterId);
}
const attemptsOf = (taskId: string) =>
  test.sql("SELECT number, status, error ->> 'code' AS code FROM attempts WHERE task_id = $1 ORDER BY number", [
    taskId,
  ]);

describe("an attempt's start", () => {
  it("is seen once whoever has the task locked lets go", async () => {
    const statusOf = async (taskId: string) =>
      (await test.sql<{ status: string }>("SELECT status FROM tasks WHERE id = $1", [taskId]))[0]?.status;
    const first = await submitAndTake();
    const other = await test.warmCluster();
    const second = await other.submitAndTake();
    const held = await test.holdTask(first.task.taskId);
    node.start([first.task]);
    // Once this is answered the start was heard; those that are heard later are not told before it.
    await node.beat([first.task]);
    other.node.start([second.task]);
    await waitUntil("the later one runs", async () => (await statusOf(second.task.taskId)) === "running");
    expect(await statusOf(first.task.taskId)).toBe("leased");
    await held.release();
    await waitUntil("the earlier one runs", async () => (await statusOf(first.task.taskId)) === "running");
    expect(await node.finish(first.task, succeeded())).toBe(true);
    expect(await other.node.finish(second.task, succeeded())).toBe(true);
  });
});

describe("an attempt's end", () => {
  it("is recorded once: a repeat is refused, and changes nothing", async () => {
    const { job, task } = await submitAndTake();
    expect(await node.finish(task, succeeded(1))).toBe(true);
    expect(await node.finish(task, succeeded(2))).toBe(false);
    expect(await node.finish(task, failed("query_failed", "too late"))).toBe(false);
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({
      status: "succeeded",
      counts: { total: 1, succeeded: 1, failed: 0 },
      result: { rows: 1 },
    });
    expect(await test.api.results(job.id)).toHaveLength(1);
  });

  it("is recorded once when the same report comes many times at the same moment", async () => {
    const { job, task } = await submitAndTake();
    const answers = await Promise.all([1, 2, 3, 4, 5].map((rows) => node.finish(task, succeeded(rows))));
    expect(answers.filter((accepted) => accepted)).toHaveLength(1);
    expect(await test.api.results(job.id)).toHaveLength(1);
    await test.api.ended(job.id);
  });

  it("is refused when the lease had run out and the task went on elsewhere, and nothing of it is visible", async () => {
    const { job, task } = await submitAndTake();
    await letLeaseExpire(task.taskId);
    await waitUntil("the lease is given back", async () => (await test.api.tasks(job.id))[0]?.status === "queued");
    await skipBackoff(task.taskId);
    // Its slots are free again once the node hears that it lost the attempt.
    expect(await node.beat([task])).toEqual([{ taskId: task.taskId, attempt: 1 }]);
    const again = await node.takeRun();
    expect(again.task).toEqual({ ...task, attempt: 2 });
    expect(await node.beat([task, again.task])).toEqual([{ taskId: task.taskId, attempt: 1 }]);
    expect(await node.finish(task, succeeded(666))).toBe(false);
    expect((await test.api.job(job.id)).status).toBe("running");
    expect(await test.api.results(job.id)).toEqual([]);
    expect(await node.finish(again.task, succeeded(2))).toBe(true);
    const done = await test.api.ended(job.id);
    expect(done.result).toMatchObject({ rows: 2, locations: ["/results/2.arrow"] });
    expect(await attemptsOf(task.taskId)).toEqual([
      { number: 1, status: "lost", code: "node_lost" },
      { number: 2, status: "succeeded", code: null },
    ]);
  });

  it("is refused from a node that does not hold it, whatever attempt it names", async () => {
    const { node: other } = await test.warmCluster({ cpus: 1, api: test.stranger });
    const { job, task } = await submitAndTake();
    expect(await other.finish(task, succeeded(666))).toBe(false);
    expect(await other.stage(task)).toBe("abandon");
    other.start([task]);
    other.send({ type: "progress", taskId: task.taskId, attempt: 1, phase: "a stranger's words" });
    expect(await other.beat([task])).toEqual([{ taskId: task.taskId, attempt: 1 }]);
    const seen = await test.api.job(job.id);
    expect(seen.phase).not.toBe("a stranger's words");
    expect((await test.api.tasks(job.id)).map((one) => one.status)).toEqual(["leased"]);
    expect(await node.finish({ ...task, attempt: 2 }, succeeded(666))).toBe(false);
    expect(await node.finish(task, succeeded(1))).toBe(true);
    expect((await test.api.ended(job.id)).result?.rows).toBe(1);
  });

  it("gives the task back when the node releases it, at once", async () => {
    const { job, task } = await submitAndTake();
    expect(await node.finish(task, released)).toBe(true);
    const again = await node.takeRun();
    expect(again.task).toEqual({ ...task, attempt: 2 });
    await node.finish(again.task, succeeded());
    expect((await test.api.ended(job.id)).status).toBe("succeeded");
    expect(await attemptsOf(task.taskId)).toMatchObject([{ status: "released" }, { status: "succeeded" }]);
  });

  it("of one task does not suffer from a report beside it that can't be kept", async () => {
    const first = await submitAndTake();
    const nul = "a NUL \u0000, and half a pair \ud800";
    node.send({ type: "progress", ...refOf(first), phase: nul });
    await node.finish(first.task, failed("query_failed", nul, false, { type: "Odd\u0000Error", traceback: nul }));
    const done = await test.api.ended(first.job.id);
    expect(done.status).toBe("failed");
    expect(done.error?.message).toMatch(/^a NUL .*, and half a pair .$/);
    const second = await submitAndTake();
    const odd = { locations: ["/results/\u0000"], schema: [{ name: "a\u0000b", dtype: "Int64" }] };
    expect(await node.finish(second.task, succeeded(1, odd))).toBe(true);
    expect((await test.api.ended(second.job.id)).status).toBe("succeeded");
  });
});

const refOf = ({ task }: LeasedRun) => ({ taskId: task.taskId, attempt: task.attempt });

describe("a job of which nothing is open", () => {
  it("is ended by its step, should a crash have come between", async () => {
    const { job, task } = await submitAndTake();
    await node.finish(task, succeeded());
    const before = await test.api.ended(job.id);
    await test.sql("UPDATE jobs SET status = 'running', finished_at = NULL WHERE id = $1", [job.id]);
    test.hurry("finish", job.id);
    const { status, counts, result } = await test.api.ended(job.id);
    expect({ status, counts, result }).toEqual({ status: "succeeded", counts: before.counts, result: before.result });
  });
});

describe("retries", () => {
  it("are made for the platform's failures with a wait, until the attempts are used up", async () => {
    const { job, task } = await submitAndTake({ attemptsMax: 3 });
    let leased: LeasedRun["task"] = task;
    for (const number of [1, 2, 3]) {
      expect(leased.attempt).toBe(number);
      await node.finish(leased, failed("engine_lost", `the engine was killed, time ${number}`));
      if (number === 3) break;
      // On a slow machine the wait may be over by now: then it has no end any more.
      const waits = await test.sql(
        `SELECT coalesce(not_before, 'infinity') > (SELECT finished_at FROM attempts WHERE task_id = tasks.id AND number = $2) AS waits
        FROM tasks WHERE id = $1`,
        [task.taskId, number],
      );
      expect(waits).toEqual([{ waits: true }]);
      await skipBackoff(task.taskId);
      leased = (await node.takeRun()).task;
    }
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({
      status: "failed",
      error: { code: "engine_lost", message: "the engine was killed, time 3" },
    });
    expect(await attemptsOf(task.taskId)).toHaveLength(3);
  });

  it.each([
    ["a user's error", "query_failed", true],
    ["memory beyond the limit", "out_of_memory", true],
    ["a failure of storage that the engine calls final", "storage_failed", false],
  ] as const)("are not made for %s", async (_, code, retryable) => {
    const { job, task } = await submitAndTake();
    await node.finish(task, failed(code, "no", retryable, { type: "SomeError", module: "m", traceback: "line 1" }));
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({
      status: "failed",
      error: { code, message: "no", type: "SomeError", traceback: "line 1" },
    });
    expect(await attemptsOf(task.taskId)).toHaveLength(1);
  });
});

describe("leases", () => {
  it("run out by the database's clock only: this process may think it is next week", async () => {
    const kept = await submitAndTake();
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 7 * 24 * 3_600_000 });
    try {
      // The next round of the step that expires leases has certainly run once it took this one.
      await node.finish(kept.task, released);
      const { task } = await node.takeRun();
      const expiring = await (await test.warmCluster()).submitAndTake();
      await letLeaseExpire(expiring.task.taskId);
      await waitUntil(
        "the other lease is given back",
        async () => (await test.api.tasks(expiring.job.id))[0]?.status === "queued",
      );
      expect((await test.api.tasks(kept.job.id))[0]?.status).toBe("leased");
      expect(await node.finish(task, succeeded())).toBe(true);
      await test.api.post(`/v1/jobs/${expiring.job.id}/cancel`);
    } finally {
      vi.useRealTimers();
    }
  });

  it("are renewed by heartbeats that name them, and by no others", async () => {
    const { job, task } = await submitAndTake();
    const left = async () =>
      (
        await test.sql<{ left: number }>(
          "SELECT extract(epoch FROM lease_expires_at - now())::float8 AS left FROM tasks WHERE id = $1",
          [task.taskId],
        )
      )[0]?.left ?? 0;
    await test.sql("UPDATE tasks SET lease_expires_at = now() + interval '5 seconds' WHERE id = $1", [task.taskId]);
    expect(await node.beat([])).toEqual([]);
    expect(await left()).toBeLessThan(6);
    expect(await node.beat([task])).toEqual([]);
    expect(await left()).toBeGreaterThan(60);
    await node.finish(task, succeeded());
    await test.api.ended(job.id);
  });
});

describe("a node that connects again", () => {
  it("keeps what it says that it holds", async () => {
    const { job, task } = await submitAndTake();
    await node.disconnect();
    await node.reconnect([task]);
    expect(await node.finish(task, succeeded(3))).toBe(true);
    expect((await test.api.ended(job.id)).result?.rows).toBe(3);
  });

  it("gives back at once what it no longer holds, and gets it anew", async () => {
    const { job, task } = await submitAndTake();
    await node.reconnect([]);
    expect((await attemptsOf(task.taskId))[0]).toMatchObject({ number: 1, status: "lost" });
    await skipBackoff(task.taskId);
    const again = await node.takeRun();
    expect(again.task).toEqual({ ...task, attempt: 2 });
    await node.finish(again.task, succeeded());
    expect((await test.api.ended(job.id)).status).toBe("succeeded");
    expect(await attemptsOf(task.taskId)).toMatchObject([
      { status: "lost", code: "node_lost" },
      { status: "succeeded" },
    ]);
  });

  it("is told to stop what was given to another meanwhile", async () => {
    const { job, task } = await submitAndTake();
    await node.disconnect();
    await test.api.post(`/v1/jobs/${job.id}/cancel`);
    await node.reconnect([task]);
    expect((await node.take("cancel")).tasks).toEqual([{ taskId: task.taskId, attempt: 1 }]);
    expect(await node.finish(task, released)).toBe(false);
    expect((await test.api.ended(job.id)).status).toBe("cancelled");
  });

  it("has all of its slots, whatever it lost", async () => {
    const { job } = await submitAndTake();
    await test.api.post(`/v1/jobs/${job.id}/cancel`);
    await node.reconnect([]);
    const next = await submitAndTake();
    expect(await node.finish(next.task, succeeded())).toBe(true);
  });

  it("is trusted about the rest, when it holds more than a first message may name", async () => {
    const holding = Array.from({ length: 512 }, (_, index) => ({ taskId: `task_${index}`, attempt: 1 }));
    const { job, task } = await submitAndTake();
    await node.reconnect(holding);
    expect((await node.take("cancel")).tasks).toHaveLength(512);
    expect((await test.api.tasks(job.id))[0]?.status).toBe("leased");
    expect(await node.finish(task, succeeded())).toBe(true);
  });
});

describe("cancelling", () => {
  it("stops what waits at once, tells the node to stop what runs, and refuses its late end", async () => {
    const running = await submitAndTake();
    const waiting = await submit();
    const cancelled = await Promise.all(
      [running.job, waiting].map((job) => test.api.post<Job>(`/v1/jobs/${job.id}/cancel`)),
    );
    expect(cancelled.map((job) => job.status)).toEqual(["cancelled", "cancelled"]);
    expect((await node.take("cancel")).tasks).toEqual([refOf(running)]);
    expect(await node.finish(running.task, succeeded(666))).toBe(false);
    expect(await test.api.results(running.job.id)).toEqual([]);
    expect((await test.api.job(running.job.id)).counts).toMatchObject({ total: 1, cancelled: 1, succeeded: 0 });
  });

  it("leaves a job that has ended as it is", async () => {
    const { job, task } = await submitAndTake();
    await node.finish(task, succeeded());
    const before = await test.api.ended(job.id);
    expect(await test.api.post<Job>(`/v1/jobs/${job.id}/cancel`)).toEqual(before);
  });

  it("can be repeated", async () => {
    const { job, task } = await submitAndTake();
    const first = await test.api.post<Job>(`/v1/jobs/${job.id}/cancel`);
    expect(await test.api.post<Job>(`/v1/jobs/${job.id}/cancel`)).toEqual(first);
    await node.finish(task, released);
  });

  it("never deadlocks with leasing and with ends that come at the same moment", async () => {
    const work = letWork(node, () => succeeded());
    await Promise.all(
      Array.from({ length: 60 }, async () => {
        const job = await submit();
        await test.api.post(`/v1/jobs/${job.id}/cancel`);
        const done = await test.api.ended(job.id);
        expect(["cancelled", "succeeded"]).toContain(done.status);
      }),
    );
    await work.stop();
    // That Postgres broke no deadlock is checked when the control plane is closed.
  });
});

describe("publishing", () => {
  const destination = { output: { destination: "/data/out", format: "parquet" as const } };
  let pinned: Awaited<ReturnType<typeof submitAndTake>>;
  beforeEach(async () => {
    pinned = await submitAndTake(destination);
  });
  afterEach(async () => {
    expect((await test.api.job(pinned.job.id)).finishedAt).not.toBeNull();
  });

  it("is allowed to the live attempt, as often as it asks", async () => {
    const { job, task } = pinned;
    expect(await node.stage(task)).toBe("publish");
    expect(await node.stage(task)).toBe("publish");
    expect((await test.api.tasks(job.id))[0]?.status).toBe("publishing");
    expect(await node.finish(task, succeeded())).toBe(true);
    expect((await test.api.ended(job.id)).status).toBe("succeeded");
    expect(await node.stage(task)).toBe("abandon");
  });

  it("is refused to an old attempt", async () => {
    const { task } = pinned;
    await node.finish(task, released);
    const again = await node.takeRun();
    expect(await node.stage(task)).toBe("abandon");
    expect(await node.stage(again.task)).toBe("publish");
    await node.finish(again.task, succeeded());
  });

  it("is refused after a cancel, and the slots of the abandoned attempt are free", async () => {
    const { job, task } = pinned;
    await test.api.post(`/v1/jobs/${job.id}/cancel`);
    expect(await node.stage(task)).toBe("abandon");
    // An abandoned attempt is let go without another word.
    const next = await submitAndTake();
    await node.finish(next.task, succeeded());
  });

  it("goes on through a cancel: the output is there, so the job has succeeded", async () => {
    const { job, task } = pinned;
    expect(await node.stage(task)).toBe("publish");
    const asked = await test.api.post<Job>(`/v1/jobs/${job.id}/cancel`);
    expect(asked.status).toBe("running");
    expect(await node.finish(task, succeeded(4))).toBe(true);
    expect(await test.api.ended(job.id)).toMatchObject({ status: "succeeded", result: { rows: 4 } });
  });

  it("is finished by another attempt from the manifest when the one that began it is lost", async () => {
    const { job, task } = pinned;
    expect(await node.stage(task, { parts: "one.parquet" })).toBe("publish");
    await node.reconnect([]);
    await skipBackoff(task.taskId);
    const { run, task: again } = await node.takeRun();
    expect(run).toMatchObject({
      publish: { manifest: { parts: "one.parquet" } },
      tasks: [{ taskId: task.taskId, attempt: 2 }],
    });
    expect(await node.finish(task, succeeded(666))).toBe(false);
    expect(await node.finish(again, succeeded(5))).toBe(true);
    expect((await test.api.ended(job.id)).result?.rows).toBe(5);
  });

  it("is allowed to the attempt that began it, should that ask late: its successor needs what lies staged", async () => {
    const { job, task } = pinned;
    const manifest = { parts: "one.parquet" };
    expect(await node.stage(task, manifest)).toBe("publish");
    await node.reconnect([]);
    expect(await node.stage(task, manifest)).toBe("publish");
    expect(await node.stage(task, { parts: "another.parquet" })).toBe("abandon");
    await skipBackoff(task.taskId);
    const { task: again } = await node.takeRun();
    expect(await node.stage(task, manifest)).toBe("publish");
    expect(await node.finish(task, succeeded(666))).toBe(false);
    expect(await node.finish(again, succeeded(5))).toBe(true);
    expect((await test.api.ended(job.id)).result?.rows).toBe(5);
    expect(await node.stage(task, manifest)).toBe("abandon");
  });

  it("can't be cancelled either while it waits for that other attempt", async () => {
    const { job, task } = pinned;
    expect(await node.stage(task)).toBe("publish");
    await node.reconnect([]);
    const asked = await test.api.post<Job>(`/v1/jobs/${job.id}/cancel`);
    expect(asked.status).toBe("running");
    await skipBackoff(task.taskId);
    const { run, task: again } = await node.takeRun();
    expect(run.publish).toEqual({ manifest: { parts: "a" } });
    expect(await node.finish(again, succeeded())).toBe(true);
    expect((await test.api.ended(job.id)).status).toBe("succeeded");
  });

  it("is tried longer than other work, because a half-published output is worse than none", async () => {
    const { job, task } = pinned;
    await test.sql("UPDATE tasks SET attempts_max = 1 WHERE id = $1", [task.taskId]);
    expect(await node.stage(task)).toBe("publish");
    await node.finish(task, failed("storage_failed", "503 from the store"));
    for (const attempt of [2, 3]) {
      await skipBackoff(task.taskId);
      const { run, task: again } = await node.takeRun();
      expect({ attempt: again.attempt, publishes: run.publish !== null }).toEqual({ attempt, publishes: true });
      await node.finish(
        again,
        attempt === 2 ? failed("storage_failed", "503") : failed("storage_refused", "no bucket"),
      );
    }
    expect(await test.api.ended(job.id)).toMatchObject({ status: "failed", error: { code: "storage_refused" } });
  });
});
