import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { eraseEmbeddedPostgres, startEmbeddedPostgres } from "@frazil/cli/dev/embedded-postgres";
import { createPostgresBackend, type Job, Queue, QueueEvents, Worker, withBackend } from "bullmq";
import { redisUrl } from "../harness/redis.ts";
import { BENCH_DIR } from "./paths.ts";

/** BullMQ alone, with jobs that do nothing: what any message through it costs. */
export interface NoOpQueue {
  /** Milliseconds from `add` until the caller sees the job finished. */
  roundTrips(count: number, warmup: number): Promise<number[]>;
  /** Seconds from adding so many jobs until all are done. */
  drain(count: number): Promise<number>;
  close(): Promise<void>;
}

interface Parts {
  readonly queue: Queue;
  readonly events: QueueEvents;
  makeWorker(concurrency: number, run: () => Promise<void>): Worker;
  close(): Promise<void>;
}

const WORKERS = 50;
const ADDED_AT_ONCE = 1_000;
/** BullMQ's events on Postgres can go missing (ids become visible out of order): the caller looks again after this long. */
const LOOK_AGAIN_MS = 100;
const LOOKS_MAX = 100;
/** Done ones stay for a while: a caller that comes late to wait for one finds that it is done. */
const KEPT = { removeOnComplete: 100, removeOnFail: 100 };

export async function onRedis(): Promise<NoOpQueue> {
  const connection = { url: await redisUrl(), maxRetriesPerRequest: null };
  return makeNoOpQueue({
    queue: new Queue("bench", { connection }),
    events: new QueueEvents("bench", { connection }),
    makeWorker: (concurrency, run) => new Worker("bench", run, { connection, concurrency }),
    close: async () => undefined,
  });
}

/** With the settings of `pc dev`: an embedded Postgres, and a queue that does not wait for the disk. */
export async function onPostgres(): Promise<NoOpQueue> {
  const dir = await mkdtemp(join(BENCH_DIR, "postgres-"));
  const postgres = await startEmbeddedPostgres({ dir });
  const bound = withBackend(createPostgresBackend);
  const connection = {
    connectionString: postgres.url,
    schema: "bullmq",
    migrate: true,
    max: 10,
    options: "-c synchronous_commit=off",
  } as never;
  return makeNoOpQueue({
    queue: new bound.Queue("bench", { connection }) as unknown as Queue,
    events: new bound.QueueEvents("bench", { connection }) as unknown as QueueEvents,
    makeWorker: (concurrency, run) => new bound.Worker("bench", run, { connection, concurrency }) as unknown as Worker,
    async close() {
      await postgres.stop();
      await eraseEmbeddedPostgres(dir);
      await rm(dir, { recursive: true, force: true });
    },
  });
}

async function waitFor(job: Job, events: QueueEvents): Promise<void> {
  for (let look = 1; look <= LOOKS_MAX; look++) {
    const isSeen = await job.waitUntilFinished(events, LOOK_AGAIN_MS).then(
      () => true,
      () => false,
    );
    if (isSeen) return;
  }
  throw new Error(`BullMQ did not say that ${job.id} is done`);
}

async function makeNoOpQueue(parts: Parts): Promise<NoOpQueue> {
  const { queue, events } = parts;
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady()]);
  return {
    async roundTrips(count, warmup) {
      const worker = parts.makeWorker(1, async () => undefined);
      const times: number[] = [];
      for (let number = 0; number < warmup + count; number++) {
        const startedAt = performance.now();
        const job = await queue.add("no-op", {}, KEPT);
        await waitFor(job, events);
        if (number >= warmup) times.push(performance.now() - startedAt);
      }
      await worker.close();
      return times;
    },
    async drain(count) {
      let left = count;
      const done = Promise.withResolvers<void>();
      const worker = parts.makeWorker(WORKERS, async () => {
        left -= 1;
        if (left === 0) done.resolve();
      });
      const startedAt = performance.now();
      for (let added = 0; added < count; added += ADDED_AT_ONCE) {
        const size = Math.min(ADDED_AT_ONCE, count - added);
        await queue.addBulk(Array.from({ length: size }, () => ({ name: "no-op", data: {}, opts: KEPT })));
      }
      await done.promise;
      const seconds = (performance.now() - startedAt) / 1_000;
      await worker.close();
      return seconds;
    },
    async close() {
      await events.close();
      await queue.close();
      await parts.close();
    },
  };
}
