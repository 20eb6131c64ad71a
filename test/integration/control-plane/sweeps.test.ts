import { type AttemptRef, SweepOrder } from "@frazil/contracts";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  makeThereFor,
  startTestControlPlane,
  type TestControlPlane,
  type WarmCluster,
} from "../../harness/control-plane.ts";
import type { FakeNode } from "../../harness/fake-node.ts";
import { failed, manyFrames, released, splitInto, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let test: TestControlPlane;
let warm: WarmCluster;
let node: FakeNode;
/** Nodes of the first workspace. */
const mine: FakeNode[] = [];
beforeAll(async () => {
  test = await startTestControlPlane();
  makeThereFor(test, Number.POSITIVE_INFINITY);
});
afterAll(() => test.close());
beforeEach(async () => {
  warm = await test.warmCluster();
  node = warm.node;
  mine.push(node);
});

async function dueAt(jobId: string): Promise<Date | null> {
  const [row] = await test.sql<{ sweep_due_at: Date | null }>("SELECT sweep_due_at FROM jobs WHERE id = $1", [jobId]);
  return row?.sweep_due_at ?? null;
}
/** The time until the sweep is over. */
async function sweepNow(jobId: string): Promise<void> {
  await test.sql("UPDATE jobs SET sweep_due_at = now() WHERE id = $1 AND sweep_due_at IS NOT NULL", [jobId]);
  test.hurry("sweep", jobId);
}
function isAsked(who: FakeNode, jobId: string): boolean {
  return who.received.some((message) => message.type === "sweep" && message.jobId === jobId);
}
async function takeSweep(jobId: string, from: FakeNode = node) {
  const order = await from.take("sweep");
  expect(order.jobId).toBe(jobId);
  return order;
}
const describeSweep = async (jobId: string, after = "") =>
  SweepOrder.parse(await node.api.get(`/v1/agent/sweeps/${jobId}${after}`));
const refOf = ({ taskId, attempt }: AttemptRef) => ({ taskId, attempt });

async function cancelled() {
  const { job, task } = await warm.submitAndTake({ output: { destination: "/out", format: "parquet" } });
  node.start([task]);
  await test.api.post(`/v1/jobs/${job.id}/cancel`);
  expect((await node.take("cancel")).tasks).toEqual([refOf(task)]);
  expect(await node.finish(task, released)).toBe(false);
  await test.api.ended(job.id);
  return { job, task };
}

describe("an ended job", () => {
  it("of which every attempt answered for itself is not swept", async () => {
    const first = await warm.submitAndTake();
    await node.finish(first.task, succeeded());
    await test.api.ended(first.job.id);
    const second = await warm.submitAndTake();
    await node.finish(second.task, failed("query_failed", "no such column", false));
    await test.api.ended(second.job.id);
    expect([await dueAt(first.job.id), await dueAt(second.job.id)]).toEqual([null, null]);
    expect(await node.finish(first.task, succeeded())).toBe(false);
    expect(await dueAt(first.job.id)).toBeNull();
  });

  it("that was cancelled while it ran is swept by a node, by itself, until the node says that nothing is left", async () => {
    const { job, task } = await cancelled();
    const { token } = await takeSweep(job.id);
    const order = await describeSweep(job.id);
    expect(order).toMatchObject({ attempts: [refOf(task)], next: null });
    expect(order.template).toMatchObject({ jobId: job.id, output: { destination: "/out", format: "parquet" } });
    node.send({ type: "swept", jobId: job.id, token: "of another try", error: null });
    node.send({ type: "swept", jobId: job.id, token, error: { code: "storage_failed", message: "a stall" } });
    await node.beat([]);
    expect(await dueAt(job.id)).not.toBeNull();
    await sweepNow(job.id);
    const again = await takeSweep(job.id);
    expect(again.token).not.toBe(token);
    node.send({ type: "swept", jobId: job.id, token: again.token, error: null });
    await waitUntil("it is swept", async () => (await dueAt(job.id)) === null);
  });

  it("names the attempts that lost, in parts", async () => {
    const job = await test.api.submit(manyFrames(["a", "b"], [0, 1], { clusterId: warm.clusterId }));
    const [first, second] = [await node.takeRun(), await node.takeRun()];
    await node.finish(first.task, released);
    const third = await node.takeRun();
    expect(third.task).toEqual({ ...first.task, attempt: 2 });
    await node.finish(third.task, succeeded());
    await node.finish(second.task, failed("engine_lost", "it crashed", false));
    await test.api.ended(job.id);
    const lost = [refOf(first.task), refOf(second.task)];
    expect((await describeSweep(job.id)).attempts).toEqual(lost);
    const [{ taskId, attempt }] = lost as [AttemptRef, AttemptRef];
    expect((await describeSweep(job.id, `?after=${encodeURIComponent(`${taskId}#${attempt}`)}`)).attempts).toEqual(
      lost.slice(1),
    );
  });

  it("of which the input was repartitioned is swept though everything went well", async () => {
    const { job, task } = await warm.submitAndTake({ partitionBy: { keys: [{ name: "day" }] } });
    await node.finish(task, { ...splitInto(1), stored: true } as ReturnType<typeof splitInto>);
    await node.finish((await node.takeRun()).task, succeeded());
    await test.api.ended(job.id);
    await sweepNow(job.id);
    await takeSweep(job.id);
    expect((await describeSweep(job.id)).attempts).toEqual([]);
  });

  it("is swept again when an attempt that was lost comes back", async () => {
    const { node: other } = await test.warmCluster();
    const { job, task } = await warm.submitAndTake();
    await test.sql("UPDATE tasks SET attempts_max = 1, lease_expires_at = now() - interval '1 s' WHERE id = $1", [
      task.taskId,
    ]);
    test.hurry("expire", "leases");
    expect((await test.api.ended(job.id)).status).toBe("failed");
    await sweepNow(job.id);
    const { token } = await takeSweep(job.id);
    // Its own cluster is there: no other one is asked.
    expect(isAsked(other, job.id)).toBe(false);
    node.send({ type: "swept", jobId: job.id, token, error: null });
    await waitUntil("it is swept", async () => (await dueAt(job.id)) === null);
    expect(await node.beat([task])).toEqual([refOf(task)]);
    expect(await dueAt(job.id)).not.toBeNull();
    await sweepNow(job.id);
    await takeSweep(job.id);
  });

  it("whose cluster is gone is swept by a node of any other cluster of its workspace", async () => {
    const { job } = await cancelled();
    await takeSweep(job.id);
    await test.sql("UPDATE clusters SET status = 'terminated' WHERE id = $1", [warm.clusterId]);
    await node.disconnect();
    const others = await test.warmCluster({ api: test.stranger });
    const { node: another } = await test.warmCluster();
    mine.push(another);
    await sweepNow(job.id);
    await waitUntil("one of its workspace is asked", () => mine.some((one) => one !== node && isAsked(one, job.id)));
    expect(isAsked(others.node, job.id)).toBe(false);
  });

  it("is shown to nodes of its own workspace only, and only when it has ended", async () => {
    const { job } = await cancelled();
    const running = await warm.submitAndTake();
    const { node: stranger } = await test.warmCluster({ api: test.stranger });
    for (const [who, id] of [
      [stranger, job.id],
      [node, running.job.id],
      [node, "job_x"],
      [node, job.id.replace(/.$/, (last) => (last === "0" ? "1" : "0"))],
    ] as const) {
      const answer = await who.api.request<{ code: string }>("GET", `/v1/agent/sweeps/${id}`);
      expect([answer.status, answer.body.code]).toEqual([404, "not_found"]);
    }
    const { token } = await takeSweep(job.id);
    stranger.send({ type: "swept", jobId: job.id, token, error: null });
    await stranger.beat([]);
    expect(await dueAt(job.id)).not.toBeNull();
    await node.finish(running.task, succeeded());
  });
});
