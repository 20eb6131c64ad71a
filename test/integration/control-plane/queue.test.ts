import { connect } from "node:net";
import type { Job } from "@frazil/contracts";
import { describe, expect, it } from "vitest";
import { startTestControlPlane, type TestControlPlane } from "../../harness/control-plane.ts";
import { letWork, startFakeNode } from "../../harness/fake-node.ts";
import { redisUrl } from "../../harness/redis.ts";
import { oneQuery, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

/** Nodes join and work as soon as they are made. */
function letNodesWork(test: TestControlPlane): { stop(): Promise<void> } {
  const starting: Promise<{ stop(): Promise<void> }>[] = [];
  test.cloud.onMade = (order) => {
    const start = async () => {
      const node = await startFakeNode(order);
      const work = letWork(node, () => succeeded());
      return {
        async stop() {
          await work.stop();
          await node.disconnect();
        },
      };
    };
    starting.push(start());
  };
  return {
    async stop() {
      test.cloud.onMade = undefined;
      for (const started of starting) await (await started).stop();
    },
  };
}

let shapes = 0;
/** Jobs that each need a cluster of their own. */
const submitCold = (test: TestControlPlane, count: number) =>
  Promise.all(
    Array.from({ length: count }, () => {
      shapes += 1;
      return test.api.submit(oneQuery({ context: { cpus: 1, memoryGiB: 100 + shapes } }));
    }),
  );

async function expectAllSucceed(test: TestControlPlane, jobs: readonly Job[]): Promise<void> {
  const done = await Promise.all(jobs.map((job) => test.api.ended(job.id)));
  expect(done.map((job) => job.status)).toEqual(jobs.map(() => "succeeded"));
}

function sendToRedis(url: string, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1", () => socket.write(`${command}\r\n`));
    socket.once("error", reject);
    socket.once("data", (data) => {
      resolve(data.toString());
      socket.destroy();
    });
  });
}

const backends = [
  {
    queue: "postgres" as const,
    isUsed: async (test: TestControlPlane) =>
      (await test.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'bullmq'")).length > 0,
    wipe: (test: TestControlPlane) => test.sql("DROP SCHEMA bullmq CASCADE"),
  },
  {
    queue: "redis" as const,
    isUsed: async () => !(await sendToRedis(await redisUrl(), "DBSIZE")).startsWith(":0"),
    wipe: async () => expect(await sendToRedis(await redisUrl(), "FLUSHALL")).toBe("+OK\r\n"),
  },
];

/** They mostly wait for timers of the control plane: together they take no longer than the longest. */
describe.concurrent("the queue", () => {
  it.each(backends)(
    "on $queue carries a job to its cluster at once, and losing it in the middle loses nothing",
    async (backend) => {
      const test = await startTestControlPlane({ queue: backend.queue });
      const nodes = letNodesWork(test);
      // The reconciler alone looks for unplaced jobs and for new clusters every 2 s each: of several jobs, one is faster than that.
      await waitUntil(
        "a job is faster than the reconciler",
        async () => {
          const startedAt = performance.now();
          await expectAllSucceed(test, await submitCold(test, 1));
          return performance.now() - startedAt < 1_000;
        },
        20_000,
      );
      expect(await backend.isUsed(test)).toBe(true);
      const before = await submitCold(test, 3);
      await backend.wipe(test);
      const after = await submitCold(test, 3);
      await expectAllSucceed(test, [...before, ...after]);
      // A queue that is gone is a nuisance, not a flood; and it comes back.
      expect(test.logLines.filter((line) => JSON.parse(line).level >= 40).length).toBeLessThan(30);
      await waitUntil("the queue is there again", () => backend.isUsed(test));
      await nodes.stop();
      await test.close();
    },
  );

  it("may take no message at all: everything happens, only later, and the control plane can be closed", async () => {
    const test = await startTestControlPlane({ queue: { url: "redis://127.0.0.1:1" } });
    const nodes = letNodesWork(test);
    await expectAllSucceed(test, await submitCold(test, 2));
    await nodes.stop();
    await test.close();
  });

  it("may bring messages twice, late, or for what is not there: they do nothing", async () => {
    const test = await startTestControlPlane();
    const warm = await test.warmCluster();
    const { job, task } = await warm.submitAndTake();
    const steps = [
      "place",
      "provision",
      "supervise",
      "stop_idle",
      "stop",
      "expire",
      "finish",
      "stop_job",
      "dispatch",
    ] as const;
    const columns =
      "SELECT status, cluster_id, tasks_total FROM jobs UNION ALL SELECT status, id, nodes_made FROM clusters";
    const before = await test.sql(columns);
    const ids = [job.id, warm.clusterId, "job_that_is_not_there"];
    for (const step of [...steps, ...steps]) for (const id of ids) test.hurry(step, id);
    const handled = () => test.logLines.filter((line) => JSON.parse(line).msg === "step").length;
    const sent = 2 * ids.length * steps.length;
    await waitUntil("all were handled", () => handled() >= sent, 20_000);
    expect(await test.sql(columns)).toEqual(before);
    expect(await warm.node.finish(task, succeeded())).toBe(true);
    const done = await test.api.ended(job.id);
    for (const step of steps) test.hurry(step, job.id);
    await waitUntil("the late ones were handled", () => handled() >= sent + steps.length, 20_000);
    expect(await test.api.job(job.id)).toMatchObject({ status: done.status, counts: done.counts });
    await test.close();
  });
});
