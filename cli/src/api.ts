import { randomUUID } from "node:crypto";
import {
  Cluster,
  ComputeContext,
  FailureGroup,
  Job,
  LogLine,
  Me,
  pageOf,
  Task,
  TaskResult,
  WAIT_SECONDS_MAX,
  Workspace,
} from "@frazil/contracts";
import { z } from "zod";
import { CliError } from "./cli-error.ts";
import { EXIT } from "./exit-codes.ts";
import type { Request, Transport } from "./http.ts";
import { readEvents } from "./sse.ts";

export interface Page<T> {
  readonly items: T[];
  readonly nextCursor: string | null;
}
export type ListQuery = Readonly<Record<string, string | number | readonly string[] | undefined>>;

/** One message of a job's event stream. */
export type JobEvent =
  | { readonly type: "job" | "end"; readonly job: Job }
  | { readonly type: "log"; readonly line: LogLine };

interface Sending {
  readonly idempotencyKey?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type Api = ReturnType<typeof openApi>;

// The workspace's default context is only shown and filled in from: a newer server may know more about it.
const MeAnswer = Me.extend({ defaultContext: z.looseObject(ComputeContext.shape) });
const Failures = z.object({ groups: z.array(FailureGroup) });
const JobPage = pageOf(Job);
const TaskPage = pageOf(Task);
const ResultPage = pageOf(TaskResult);
const LogPage = pageOf(LogLine);
const ClusterPage = pageOf(Cluster);
const JSON_TYPE = "application/json";
const NDJSON_TYPE = "application/x-ndjson";

/** The API's addresses as functions. Answers are checked against the contract and given as the server wrote them, unknown fields included. */
export function openApi(transport: Transport) {
  const get = async <T>(schema: z.ZodType<T>, path: string, query?: ListQuery, rest: Partial<Request> = {}) =>
    check(
      schema,
      path,
      await transport.send({ ...rest, method: "GET", path, ...(query === undefined ? {} : { query }) }),
    );
  const post = async <T>(schema: z.ZodType<T>, path: string, sending: Sending, rest: Partial<Request> = {}) => {
    const idempotencyKey = sending.idempotencyKey ?? randomUUID();
    return check(
      schema,
      path,
      await transport.send({ ...rest, method: "POST", path, idempotencyKey, signal: sending.signal }),
    );
  };
  return {
    me: () => get(MeAnswer, "/v1/me"),
    workspace: () => get(Workspace, "/v1/workspace"),
    changeWorkspace: async (change: { readonly tasksRunningMax: number | null }) =>
      check(
        Workspace,
        "/v1/workspace",
        await transport.send({
          method: "PATCH",
          path: "/v1/workspace",
          body: { type: JSON_TYPE, make: () => JSON.stringify(change) },
        }),
      ),
    submit: (body: unknown, waitSeconds: number, sending: Sending = {}) =>
      post(Job, "/v1/jobs", sending, {
        ...(waitSeconds > 0 ? { query: { wait: waitSeconds }, heldMs: waitSeconds * 1_000 } : {}),
        body: { type: JSON_TYPE, make: () => JSON.stringify(body) },
      }),
    submitLines: (makeLines: () => AsyncIterable<Uint8Array>, sending: Sending = {}) =>
      post(Job, "/v1/jobs", sending, { body: { type: NDJSON_TYPE, make: makeLines } }),
    job: (id: string, rest: Partial<Request> = {}) => get(Job, `/v1/jobs/${part(id)}`, undefined, rest),
    /** The job once it has ended, or has a revision above the given one, or after the time. */
    waitJob: (id: string, timeoutSeconds: number, revision?: number, rest: Partial<Request> = {}) =>
      get(
        Job,
        `/v1/jobs/${part(id)}/wait`,
        { timeout: timeoutSeconds, revision },
        { ...rest, heldMs: WAIT_SECONDS_MAX * 1_000 },
      ),
    jobs: (query: ListQuery): Promise<Page<Job>> => get(JobPage, "/v1/jobs", query),
    tasks: (id: string, query: ListQuery): Promise<Page<Task>> => get(TaskPage, `/v1/jobs/${part(id)}/tasks`, query),
    results: (id: string, query: ListQuery): Promise<Page<TaskResult>> =>
      get(ResultPage, `/v1/jobs/${part(id)}/results`, query),
    logs: (id: string, query: ListQuery): Promise<Page<LogLine>> => get(LogPage, `/v1/jobs/${part(id)}/logs`, query),
    failures: async (id: string) => (await get(Failures, `/v1/jobs/${part(id)}/failures`)).groups,
    cancel: (id: string) => post(Job, `/v1/jobs/${part(id)}/cancel`, {}),
    retry: (id: string) => post(Job, `/v1/jobs/${part(id)}/retry`, {}),
    events: (id: string, after: string | undefined, signal: AbortSignal) => readJobEvents(transport, id, after, signal),
    clusters: (query: ListQuery): Promise<Page<Cluster>> => get(ClusterPage, "/v1/clusters", query),
    cluster: (id: string) => get(Cluster, `/v1/clusters/${part(id)}`),
    waitCluster: (id: string, timeoutSeconds: number, rest: Partial<Request> = {}) =>
      get(
        Cluster,
        `/v1/clusters/${part(id)}/wait`,
        { timeout: timeoutSeconds },
        { ...rest, heldMs: WAIT_SECONDS_MAX * 1_000 },
      ),
    startCluster: (body: unknown) =>
      post(Cluster, "/v1/clusters", {}, { body: { type: JSON_TYPE, make: () => JSON.stringify(body) } }),
    stopCluster: (id: string) => post(Cluster, `/v1/clusters/${part(id)}/stop`, {}),
  };
}

async function* readJobEvents(
  transport: Transport,
  id: string,
  after: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<JobEvent> {
  const path = `/v1/jobs/${part(id)}/events`;
  const chunks = await transport.stream({ path, query: { after }, signal });
  for await (const { event, data } of readEvents(chunks)) {
    if (event === "log") yield { type: "log", line: check(LogLine, path, JSON.parse(data)) };
    else if (event === "job" || event === "end") yield { type: event, job: check(Job, path, JSON.parse(data)) };
  }
}

function part(id: string): string {
  return encodeURIComponent(id);
}

function check<T>(schema: z.ZodType<T>, path: string, answer: unknown): T {
  const checked = schema.safeParse(answer);
  if (checked.success) return answer as T;
  const issue = checked.error.issues[0];
  throw new CliError(
    "not_understood",
    EXIT.noServer,
    `the server's answer to ${path} was not understood: ${issue?.path.join(".") || "it"}: ${issue?.message}`,
    { hint: "`pc doctor` compares the versions of the server and of this CLI" },
  );
}
