import { isFinalJobStatus, JobId, type LogLine } from "@frazil/contracts";
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { type SSEStreamingApi, streamSSE } from "hono/streaming";
import { type AppEnv, isStillGood, whileGood } from "./auth.ts";
import { newApp, problems, security } from "./openapi.ts";
import { type HttpDeps, readJob, waitForJob } from "./reads.ts";

const HEARTBEAT_SECONDS = 15;
const LOGS_PER_LOOK = 500;
/** A stream ends by itself after this long; the client opens it anew where it left off. */
const STREAM_MS_MAX = 3_600_000;

/** Each event of the stream: a job as `job` or (the last one) `end`, or a log line as `log`, with its id. */
const ServerSentEvent = z.object({
  event: z.enum(["job", "log", "end"]),
  id: z.string().optional(),
  data: z.string().describe("JSON: a Job, or for `log` a LogLine."),
});

const events = createRoute({
  method: "get",
  path: "/v1/jobs/{id}/events",
  summary: "Progress, logs and end of a job as server-sent events",
  security,
  request: {
    params: z.object({ id: JobId }),
    query: z.object({
      after: z
        .string()
        .regex(/^\d{1,15}$/)
        .optional()
        .describe("Id of the last log line that you have."),
    }),
  },
  responses: {
    200: {
      description: "Events `job`, `log` and `end`",
      content: { "text/event-stream": { schema: ServerSentEvent } },
    },
    ...problems(400, 404),
  },
});

export function eventRoutes(deps: HttpDeps): OpenAPIHono<AppEnv> {
  const app = newApp();
  app.openapi(events, async (c) => {
    const { id } = c.req.valid("param");
    const caller = c.get("caller");
    const { workspaceId } = caller;
    await readJob(deps, workspaceId, id);
    const after = BigInt(c.req.valid("query").after ?? c.req.header("last-event-id")?.match(/^\d{1,15}$/)?.[0] ?? "0");
    const isGood = () => isStillGood(deps, caller);
    return streamSSE(c, async (stream) => {
      const stop = new AbortController();
      stream.onAbort(() => stop.abort());
      const timer = setTimeout(() => stop.abort(), STREAM_MS_MAX);
      try {
        await whileGood(deps, c, (good) => {
          const signal = AbortSignal.any([good, stop.signal]);
          return follow(deps, stream, { workspaceId, jobId: id, after, signal, isGood });
        });
      } catch (error) {
        // The stream has begun: it ends without `end`, and the client opens it anew.
        deps.log.warn({ err: error, job: id }, "could not go on with an event stream");
      } finally {
        clearTimeout(timer);
      }
    }) as never;
  });
  return app;
}

async function follow(
  deps: HttpDeps,
  stream: SSEStreamingApi,
  what: { workspaceId: string; jobId: string; after: bigint; signal: AbortSignal; isGood: () => Promise<boolean> },
) {
  const { signal } = what;
  let { after } = what;
  let revision = -1;
  while (!signal.aborted) {
    const job = await waitForJob(deps, what.workspaceId, what.jobId, {
      seconds: HEARTBEAT_SECONDS,
      signal,
      isEnough: (now) => now.revision > revision || isFinalJobStatus(now.status),
    });
    if (signal.aborted) return;
    after = await sendLogs(deps, stream, { jobId: what.jobId, after, signal });
    // Perhaps not all lines were sent: `end` would say that they were.
    if (signal.aborted) return;
    if (isFinalJobStatus(job.status)) {
      await stream.writeSSE({ event: "end", data: JSON.stringify(job) });
      return;
    }
    if (job.revision > revision) await stream.writeSSE({ event: "job", data: JSON.stringify(job) });
    else if (await what.isGood()) await stream.write(": still here\n\n");
    else return;
    revision = job.revision;
  }
}

/** Sends what there is behind `after`, and returns how far it came. There may be very much of it: it looks at the signal before each line. */
async function sendLogs(
  deps: HttpDeps,
  stream: SSEStreamingApi,
  { jobId, after, signal }: { jobId: string; after: bigint; signal: AbortSignal },
): Promise<bigint> {
  let last = after;
  for (;;) {
    const lines: LogLine[] = await deps.db.pages.pageLogs(deps.prisma, jobId, undefined, last, LOGS_PER_LOOK);
    for (const line of lines) {
      if (signal.aborted) return last;
      await stream.writeSSE({ event: "log", id: line.id, data: JSON.stringify(line) });
      last = BigInt(line.id);
    }
    if (lines.length < LOGS_PER_LOOK) return last;
  }
}
