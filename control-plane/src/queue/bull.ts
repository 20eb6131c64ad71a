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
/** BullMQ waits for a Redis that is gone for as long as that takes. What it still holds is a hint only. */
const CLOSE_MS_MAX = 2_000;
const WARN_EVERY_MS = 5_000;
/** What Postgres says when the queue's schema, tables or functions are not there. */
const GONE_STATES = new Set(["3F000", "42P01", "42883"]);
const REOPEN_MS = 1_000;
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
  const warn = warnNowAndThen(log);
  let consumer: Consumer | undefined;
  let worker: Worker | undefined;
  let reopening: NodeJS.Timeout | undefined;
  let isClosed = false;
  let queue = makeQueue();

  function makeQueue(): Queue {
    const made = backend.makeQueue();
    made.on("error", (error) => note(error, "queue", made === queue));
    return made;
  }
  function makeWorker(): Worker | undefined {
    if (consumer === undefined) return undefined;
    const made = backend.makeWorker(consumer);
    made.on("error", (error) => note(error, "queue worker", made === worker));
    made.on("failed", (job, error) => log.warn({ err: error, message: job?.data }, "step failed"));
    return made;
  }
  /** Whoever dropped the queue's schema left workers that fail without a pause: they end, and new ones make it anew. */
  function note(error: Error, what: string, isCurrent: boolean): void {
    warn(error, what);
    const isGone = GONE_STATES.has(String((error as { code?: unknown }).code));
    if (!isGone || !isCurrent || isClosed || reopening !== undefined) return;
    const ended = [worker?.close(true), queue.close()];
    Promise.all(ended).catch((cause: Error) => warn(cause, "could not close a queue that is gone"));
    reopening = setTimeout(() => {
      reopening = undefined;
      queue = makeQueue();
      worker = makeWorker();
    }, REOPEN_MS);
  }
  return {
    send(step, id) {
      const sender = queue;
      // A message that is waiting already says the same thing; one that is being worked on may have looked too early, so this one must stay.
      sender
        .add(
          step,
          { step, id },
          { ...KEPT, attempts: ATTEMPTS_MAX, backoff: { type: "exponential", delay: BACKOFF_MS } },
        )
        .catch((error: Error) =>
          note(error, "the queue did not take a message; the reconciler will find it", sender === queue),
        );
    },
    consume(run) {
      consumer = async (data) => {
        const { step, id } = StepMessage.parse(data);
        await run(step, id);
      };
      worker = makeWorker();
    },
    async close() {
      isClosed = true;
      clearTimeout(reopening);
      await within(
        CLOSE_MS_MAX,
        Promise.resolve(worker?.close()).then(() => queue.close()),
      );
    },
  };
}

type Consumer = (data: unknown) => Promise<void>;

/** A fault that repeats is logged once in a while. */
function warnNowAndThen(log: Logger): (error: Error, what: string) => void {
  const warnedAtMs = new Map<string, number>();
  return (error, what) => {
    const now = performance.now();
    if (now - (warnedAtMs.get(what) ?? Number.NEGATIVE_INFINITY) < WARN_EVERY_MS) return;
    warnedAtMs.set(what, now);
    log.warn({ err: error }, what);
  };
}

/** Waits for work, but no longer than this. */
async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, late]);
  clearTimeout(timer);
}

interface Backend {
  makeQueue(): Queue;
  makeWorker(run: Consumer): Worker;
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
