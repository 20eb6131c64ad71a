import { createPostgresBackend, Queue, type QueueOptions, Worker, withBackend } from "bullmq";
import type { Logger } from "pino";
import { z } from "zod";
import type { StepQueue } from "../flow/deps.ts";
import { STEPS, type StepName } from "../flow/steps.ts";

const QUEUE_NAME = "steps";
const POSTGRES_SCHEMA = "bullmq";
const CONCURRENCY = 8;
const POSTGRES_CONNECTIONS_MAX = 6;
const ATTEMPTS_MAX = 3;
const BACKOFF_MS = 500;
/** Messages are hints: done and failed ones are of no use to anybody. */
const KEPT = { removeOnComplete: true, removeOnFail: 100 };

const StepMessage = z.object({
  step: z.enum(Object.keys(STEPS) as [StepName, ...StepName[]]),
  id: z.string().max(100),
});

export interface OpenQueue extends StepQueue {
  consume(run: (step: StepName, id: string) => Promise<void>): void;
  close(): Promise<void>;
}

/** BullMQ on Redis when there is a REDIS_URL, on Postgres otherwise. The same messages, the same workers. */
export function openQueue(config: { databaseUrl: string; redisUrl: string | undefined }, log: Logger): OpenQueue {
  const backend = config.redisUrl === undefined ? onPostgres(config.databaseUrl) : onRedis(config.redisUrl);
  const queue = backend.makeQueue();
  queue.on("error", (error) => log.warn({ err: error }, "queue"));
  let worker: Worker | undefined;
  return {
    send(step, id) {
      // A message that is waiting already says the same thing; one that is being worked on may have looked too early, so this one must stay.
      queue
        .add(
          step,
          { step, id },
          { ...KEPT, attempts: ATTEMPTS_MAX, backoff: { type: "exponential", delay: BACKOFF_MS } },
        )
        .catch((error: Error) =>
          log.warn({ err: error, step, id }, "the queue did not take a message; the reconciler will find it"),
        );
    },
    consume(run) {
      worker = backend.makeWorker(async (data) => {
        const { step, id } = StepMessage.parse(data);
        await run(step, id);
      });
      worker.on("error", (error) => log.warn({ err: error }, "queue worker"));
      worker.on("failed", (job, error) => log.warn({ err: error, message: job?.data }, "step failed"));
    },
    async close() {
      await worker?.close();
      await queue.close();
    },
  };
}

interface Backend {
  makeQueue(): Queue;
  makeWorker(run: (data: unknown) => Promise<void>): Worker;
}

function onRedis(url: string): Backend {
  const connection: QueueOptions["connection"] = { url, maxRetriesPerRequest: null };
  return {
    makeQueue: () => new Queue(QUEUE_NAME, { connection: { url, enableOfflineQueue: false } }),
    makeWorker: (run) => new Worker(QUEUE_NAME, (job) => run(job.data), { connection, concurrency: CONCURRENCY }),
  };
}

function onPostgres(connectionString: string): Backend {
  const bound = withBackend(createPostgresBackend);
  // A lost message costs nothing but time, so the queue need not wait for the disk.
  const connection = {
    connectionString,
    schema: POSTGRES_SCHEMA,
    migrate: true,
    max: POSTGRES_CONNECTIONS_MAX,
    options: "-c synchronous_commit=off",
  } as never;
  return {
    makeQueue: () => new bound.Queue(QUEUE_NAME, { connection }) as unknown as Queue,
    makeWorker: (run) =>
      new bound.Worker(QUEUE_NAME, (job: { data: unknown }) => run(job.data), {
        connection,
        concurrency: CONCURRENCY,
      }) as unknown as Worker,
  };
}
