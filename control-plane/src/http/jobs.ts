import {
  FailureGroup,
  Job,
  JobId,
  JobMode,
  JobStatus,
  LogLine,
  Problem,
  pageOf,
  SubmitJob,
  SubmitLine,
  Task,
  TaskId,
  TaskResult,
  TaskStatus,
} from "@frazil/contracts";
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { cancelJob } from "../flow/cancel.ts";
import { retryJob } from "../flow/retry.ts";
import { type AppEnv, whileGood } from "./auth.ts";
import { bodyOf } from "./body.ts";
import {
  IdempotencyHeaders,
  IdPageQuery,
  jsonContent,
  NumberPageQuery,
  newApp,
  numberOf,
  problems,
  registerSchema,
  security,
  WaitSeconds,
} from "./openapi.ts";
import { type HttpDeps, readJob, waitForJob } from "./reads.ts";
import { readMany, readOne } from "./submission.ts";
import { viewJob } from "./views.ts";

const JobParam = z.object({ id: JobId });
const Label = z.string().regex(/^[^:]{1,63}:.{0,256}$/s, "expected key:value");

const submit = createRoute({
  method: "post",
  path: "/v1/jobs",
  summary: "Submit a query, or many in one stream",
  security,
  request: {
    query: z.object({ wait: WaitSeconds.default(0).describe("Seconds to hold the answer until the job has ended.") }),
    // Read by hand, as a stream: the schemas only describe it.
    body: {
      required: true,
      content: {
        "application/json": { schema: { $ref: "#/components/schemas/SubmitJob" } },
        "application/x-ndjson": { schema: { $ref: "#/components/schemas/SubmitLine" } },
      },
    },
    headers: IdempotencyHeaders,
  },
  responses: { 202: jsonContent(Job, "Accepted"), ...problems(400, 404, 408, 409, 413, 415, 422) },
});
const list = createRoute({
  method: "get",
  path: "/v1/jobs",
  summary: "Jobs of the workspace, newest first",
  security,
  request: {
    query: IdPageQuery.extend({
      status: JobStatus.optional(),
      mode: JobMode.optional(),
      user: z.string().max(200).optional(),
      label: Label.optional(),
    }),
  },
  responses: { 200: jsonContent(pageOf(Job), "A page"), ...problems(400) },
});
const get = createRoute({
  method: "get",
  path: "/v1/jobs/{id}",
  summary: "A job",
  security,
  request: { params: JobParam },
  responses: { 200: jsonContent(Job, "The job"), ...problems(400, 404) },
});
const wait = createRoute({
  method: "get",
  path: "/v1/jobs/{id}/wait",
  summary: "Wait for a job's end, or for its next change",
  security,
  request: {
    params: JobParam,
    query: z.object({ timeout: WaitSeconds.default(30), revision: z.coerce.number().int().min(0).optional() }),
  },
  responses: { 200: jsonContent(Job, "The job as it is then"), ...problems(400, 404) },
});
const tasks = createRoute({
  method: "get",
  path: "/v1/jobs/{id}/tasks",
  summary: "Tasks of a job, in order",
  security,
  request: { params: JobParam, query: NumberPageQuery.extend({ status: TaskStatus.optional() }) },
  responses: { 200: jsonContent(pageOf(Task), "A page"), ...problems(400, 404) },
});
const results = createRoute({
  method: "get",
  path: "/v1/jobs/{id}/results",
  summary: "Results of a job, in the order of its tasks",
  security,
  request: { params: JobParam, query: NumberPageQuery },
  responses: { 200: jsonContent(pageOf(TaskResult), "A page"), ...problems(400, 404) },
});
const failures = createRoute({
  method: "get",
  path: "/v1/jobs/{id}/failures",
  summary: "Failures of a job, grouped by error",
  security,
  request: { params: JobParam },
  responses: {
    200: jsonContent(z.object({ groups: z.array(FailureGroup) }), "Groups, most frequent first"),
    ...problems(400, 404),
  },
});
const logs = createRoute({
  method: "get",
  path: "/v1/jobs/{id}/logs",
  summary: "What the job's code printed",
  security,
  request: { params: JobParam, query: NumberPageQuery.extend({ taskId: TaskId.optional() }) },
  responses: {
    200: jsonContent(
      pageOf(LogLine),
      "A page; nextCursor is set as long as there are lines, so that it can be followed",
    ),
    ...problems(400, 404),
  },
});
const cancel = createRoute({
  method: "post",
  path: "/v1/jobs/{id}/cancel",
  summary: "Cancel a job",
  security,
  request: { params: JobParam },
  responses: { 200: jsonContent(Job, "The job, cancelled unless it had ended"), ...problems(400, 404) },
});
const retry = createRoute({
  method: "post",
  path: "/v1/jobs/{id}/retry",
  summary: "Make a new job of the failed and cancelled tasks",
  security,
  request: { params: JobParam, headers: IdempotencyHeaders },
  responses: { 202: jsonContent(Job, "The new job"), ...problems(400, 404, 409, 422) },
});

export function jobRoutes(deps: HttpDeps): OpenAPIHono<AppEnv> {
  const app = newApp();
  registerSchema(app, "SubmitJob", SubmitJob);
  registerSchema(app, "SubmitLine", SubmitLine);
  submissions(app, deps);
  lists(app, deps);
  app.openapi(get, async (c) => c.json(await readJob(deps, c.get("caller").workspaceId, c.req.valid("param").id), 200));
  app.openapi(wait, async (c) => {
    const { timeout, revision } = c.req.valid("query");
    // Who waits for the end alone is not woken by what changes before.
    const isEnough =
      revision === undefined ? undefined : (now: Job) => now.finishedAt !== null || now.revision > revision;
    const { id } = c.req.valid("param");
    const job = await whileGood(deps, c, (signal) =>
      waitForJob(deps, c.get("caller").workspaceId, id, { seconds: timeout, signal, isEnough }),
    );
    return c.json(job, 200);
  });
  app.openapi(cancel, async (c) => {
    const job = await cancelJob(deps, c.get("caller").workspaceId, c.req.valid("param").id);
    return c.json(await readJob(deps, job.workspace_id, job.id), 200);
  });
  app.openapi(retry, async (c) => {
    const { workspaceId, user } = c.get("caller");
    const idempotencyKey = c.req.valid("header")["idempotency-key"] ?? null;
    const job = await retryJob(deps, { workspaceId, user, jobId: c.req.valid("param").id, idempotencyKey });
    return c.json(await readJob(deps, workspaceId, job.id), 202);
  });
  return app;
}

function submissions(app: OpenAPIHono<AppEnv>, deps: HttpDeps): void {
  app.openapi(submit, async (c) => {
    const { workspaceId, workspace, user } = c.get("caller");
    const submitter = { workspace, user, idempotencyKey: c.req.valid("header")["idempotency-key"] ?? null };
    const type = (c.req.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase();
    const read = type === "application/json" ? readOne : type === "application/x-ndjson" ? readMany : undefined;
    if (read === undefined)
      throw new Problem("unsupported_media_type", "Send application/json (one query) or application/x-ndjson (many).");
    const row = await read(deps, submitter, bodyOf(c));
    const { wait: seconds } = c.req.valid("query");
    // A repeat's job may have gone on, and ended, since it was inserted.
    const isNew = row.new_plan_id !== undefined;
    if (seconds === 0) return c.json(isNew ? viewJob(row, null) : await readJob(deps, workspaceId, row.id), 202);
    // Just inserted, and a node of this process has it: there is nothing to see yet.
    const known = isNew && row.status === "running" ? viewJob(row, null) : undefined;
    const job = await whileGood(deps, c, (signal) => waitForJob(deps, workspaceId, row.id, { seconds, signal, known }));
    return c.json(job, 202);
  });
}

function lists(app: OpenAPIHono<AppEnv>, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, label, ...filter } = c.req.valid("query");
    const at = label?.indexOf(":") ?? 0;
    const wanted = label === undefined ? undefined : { key: label.slice(0, at), value: label.slice(at + 1) };
    const rows = await deps.db.pages.pageJobs(
      deps.pool,
      c.get("caller").workspaceId,
      { ...filter, label: wanted },
      cursor,
      limit,
    );
    return c.json(
      {
        items: rows.map((row) => viewJob(row, null)),
        nextCursor: rows.length === limit ? (rows.at(-1)?.id ?? null) : null,
      },
      200,
    );
  });
  app.openapi(tasks, async (c) => {
    const { limit, cursor, status } = c.req.valid("query");
    const job = await readJob(deps, c.get("caller").workspaceId, c.req.valid("param").id);
    const rows = await deps.db.pages.pageTasks(deps.pool, job.id, status, numberOf(cursor), limit);
    return c.json(
      { items: rows.map((row) => row.task), nextCursor: rows.length === limit ? String(rows.at(-1)?.ordinal) : null },
      200,
    );
  });
  app.openapi(results, async (c) => {
    const { limit, cursor } = c.req.valid("query");
    const job = await readJob(deps, c.get("caller").workspaceId, c.req.valid("param").id);
    const rows = await deps.db.results.listResults(deps.pool, job.id, numberOf(cursor), limit);
    return c.json(
      { items: rows.map((row) => row.result), nextCursor: rows.length === limit ? String(rows.at(-1)?.ordinal) : null },
      200,
    );
  });
  app.openapi(failures, async (c) => {
    const job = await readJob(deps, c.get("caller").workspaceId, c.req.valid("param").id);
    return c.json({ groups: await deps.db.pages.groupFailures(deps.pool, job.id) }, 200);
  });
  app.openapi(logs, async (c) => {
    const { limit, cursor, taskId } = c.req.valid("query");
    const job = await readJob(deps, c.get("caller").workspaceId, c.req.valid("param").id);
    const lines = await deps.db.pages.pageLogs(
      deps.prisma,
      job.id,
      taskId,
      BigInt(Math.max(0, numberOf(cursor))),
      limit,
    );
    return c.json({ items: lines, nextCursor: lines.at(-1)?.id ?? null }, 200);
  });
}
