import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import {
  ChangeWorkspace,
  type Cluster,
  type ErrorCode,
  type FailureGroup,
  isFinalJobStatus,
  type Job,
  type LogLine,
  Problem,
  problemDocument,
  StartCluster,
  SubmitJob,
  SubmitLine,
  type Task,
  type TaskResult,
} from "@frazil/contracts";
import { countsOf, ME, makeCluster, makeJob } from "./fake-data.ts";

export const TOKEN = "frz_test";

/** A request as it came, with its body parsed and checked against the contract. */
export interface Received {
  readonly method: string;
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly headers: IncomingMessage["headers"];
  readonly body: unknown;
}

type Answer = {
  readonly status?: number;
  readonly json?: unknown;
  readonly headers?: Record<string, string>;
  readonly text?: string;
};
/** A test's own answer to a request; undefined leaves it to the server. `drop` breaks the connection, `swallow` never answers. */
type Intercept = (request: Received) => Answer | "drop" | "swallow" | undefined;

interface JobState {
  job: Job;
  readonly tasks: Task[];
  readonly results: TaskResult[];
  readonly failures: FailureGroup[];
  readonly logs: LogLine[];
}

interface State {
  readonly received: Received[];
  readonly jobs: Map<string, JobState>;
  readonly clusters: Map<string, Cluster>;
  intercept: Intercept | undefined;
  /** What a new job is like. */
  onSubmit: (submission: unknown) => Partial<Job>;
  readonly changed: Set<() => void>;
  readonly streams: Set<ServerResponse>;
}

export type FakeServer = Awaited<ReturnType<typeof startFakeServer>>;

/** A server over http that keeps jobs in memory and holds every submission against the contract. What jobs do is up to the test. */
export async function startFakeServer() {
  const state: State = {
    received: [],
    jobs: new Map(),
    clusters: new Map(),
    intercept: undefined,
    onSubmit: () => ({}),
    changed: new Set(),
    streams: new Set(),
  };
  const server = createServer((request, response) => {
    void answer(state, request, response).catch((error: unknown) => {
      const problem = error instanceof Problem ? error : new Problem("internal", String(error));
      const document = problemDocument(problem);
      if (!response.headersSent) send(response, { status: document.status, json: document });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    address,
    env: { FRAZIL_ADDRESS: address, FRAZIL_TOKEN: TOKEN },
    state,
    received: state.received,
    addJob: (patch: Partial<Job> = {}) => addJob(state, makeJob(patch)),
    addCluster(patch: Partial<Cluster> = {}) {
      const cluster = makeCluster(patch);
      state.clusters.set(cluster.id, cluster);
      return cluster;
    },
    of(id: string): JobState {
      const found = state.jobs.get(id);
      if (found === undefined) throw new Error(`the test knows no job ${id}`);
      return found;
    },
    /** Changes a job, and tells those who wait for it. */
    update(id: string, patch: Partial<Job>) {
      const found = this.of(id);
      found.job = { ...found.job, ...patch, revision: found.job.revision + 1 };
      for (const wake of [...state.changed]) wake();
    },
    /** Breaks all event streams. */
    breakStreams() {
      for (const stream of state.streams) stream.destroy();
    },
    /** The requests to one address. */
    to: (method: string, path: string) => state.received.filter((each) => each.method === method && each.path === path),
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function addJob(state: State, job: Job): Job {
  state.jobs.set(job.id, { job, tasks: [], results: [], failures: [], logs: [] });
  return job;
}

async function answer(state: State, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? "/", "http://fake");
  const raw = (await buffer(request)).toString();
  const received: Received = {
    method: request.method ?? "",
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: request.headers,
    body: parseBody(request, raw),
  };
  state.received.push(received);
  const own = state.intercept?.(received);
  if (own === "swallow") return;
  if (own === "drop") {
    request.socket.destroy();
    return;
  }
  if (own !== undefined) {
    send(response, own);
    return;
  }
  if (url.pathname === "/healthz") return send(response, { json: { status: "alive" } });
  if (url.pathname === "/readyz") return send(response, { json: { status: "ready" } });
  if (request.headers.authorization !== `Bearer ${TOKEN}`) throw new Problem("unauthenticated", "Send a valid token.");
  await route(state, received, response);
}

/** Also the check: a body that the contract does not have is answered with 400, and fails the test by that. */
function parseBody(request: IncomingMessage, raw: string): unknown {
  if (raw === "") return undefined;
  try {
    if (request.headers["content-type"] === "application/x-ndjson") {
      return raw
        .trimEnd()
        .split("\n")
        .map((line) => SubmitLine.parse(JSON.parse(line)));
    }
    if (request.url === "/v1/workspace") return ChangeWorkspace.parse(JSON.parse(raw));
    return request.url?.startsWith("/v1/clusters")
      ? StartCluster.parse(JSON.parse(raw))
      : SubmitJob.parse(JSON.parse(raw));
  } catch (error) {
    throw new Problem("invalid_request", `not in the contract: ${String(error)}`);
  }
}

function send(response: ServerResponse, { status = 200, json, headers = {}, text }: Answer): void {
  const type = status >= 400 ? "application/problem+json" : "application/json";
  response
    .writeHead(status, { "content-type": type, ...headers })
    .end(text ?? (json === undefined ? "" : JSON.stringify(json)));
}

async function route(state: State, request: Received, response: ServerResponse): Promise<void> {
  const [, , kind, id, verb] = request.path.split("/");
  const at = `${request.method} ${[kind, id === undefined ? undefined : "{id}", verb].filter(Boolean).join("/")}`;
  if (at === "GET me") return send(response, { json: ME });
  if (at === "POST jobs") return send(response, { status: 202, json: submit(state, request) });
  if (at === "GET jobs")
    return send(response, {
      json: pageOf(
        [...state.jobs.values()]
          .map(({ job }) => job)
          .filter((job) => isWanted(job, request.query))
          .reverse(),
        request.query,
      ),
    });
  if (at === "GET clusters")
    return send(response, { json: pageOf([...state.clusters.values()].reverse(), request.query) });
  if (at === "POST clusters") return send(response, { status: 202, json: startCluster(state, request) });
  if (kind === "clusters") return send(response, { json: clusterAnswer(state, id ?? "", verb) });
  const found = state.jobs.get(id ?? "");
  if (kind !== "jobs" || found === undefined) throw new Problem("not_found", `There is no job ${id}.`);
  if (at === "GET jobs/{id}/events") return stream(state, found, request, response);
  send(response, { json: await jobAnswer(state, found, at, request) });
}

function submit(state: State, { body, query }: Received): Job {
  const many = Array.isArray(body);
  const job = makeJob({
    mode: many ? "many" : "single",
    counts: countsOf(many ? { total: framesOf(body).length, queued: framesOf(body).length } : { queued: 1 }),
    ...state.onSubmit(body),
  });
  addJob(state, job);
  return query.wait === undefined ? { ...job, result: null } : job;
}

/** The plan numbers of a streamed submission's frames. */
export function framesOf(lines: readonly unknown[]): number[] {
  return lines.flatMap((line) => {
    const parsed = SubmitLine.parse(line);
    return parsed.line === "frames" ? parsed.plans : [];
  });
}

function isWanted(job: Job, { status, mode, user, label }: Received["query"]): boolean {
  const [key = "", value] = label?.split(":") ?? [];
  return (
    (status === undefined || job.status === status) &&
    (mode === undefined || job.mode === mode) &&
    (user === undefined || job.user === user) &&
    (label === undefined || job.labels[key] === value)
  );
}

/** Cursors are positions here. */
function pageOf<T>(items: readonly T[], { limit = "50", cursor = "0" }: Received["query"]) {
  const end = Number(cursor) + Number(limit);
  return { items: items.slice(Number(cursor), end), nextCursor: end < items.length ? String(end) : null };
}

function startCluster(state: State, { body }: Received): Cluster {
  const { context, name } = StartCluster.parse(body);
  const { cloud = "local", cpus, memoryGiB, gpus, clusterSize } = context;
  const cluster = makeCluster({ name, shape: { cloud, cpus, memoryGiB, gpus, clusterSize } });
  state.clusters.set(cluster.id, cluster);
  return cluster;
}

function clusterAnswer(state: State, id: string, verb: string | undefined): Cluster {
  const cluster = state.clusters.get(id);
  if (cluster === undefined) throw new Problem("not_found", `There is no cluster ${id}.`);
  if (verb === "stop") state.clusters.set(id, { ...cluster, status: "stopping" });
  if (verb === "wait") state.clusters.set(id, { ...cluster, status: "ready" });
  return state.clusters.get(id) ?? cluster;
}

async function jobAnswer(state: State, found: JobState, at: string, { query }: Received): Promise<unknown> {
  switch (at) {
    case "GET jobs/{id}":
      return found.job;
    case "GET jobs/{id}/wait":
      await waitForChange(state, found, query);
      return found.job;
    case "GET jobs/{id}/tasks":
      return pageOf(
        found.tasks.filter((task) => query.status === undefined || task.status === query.status),
        query,
      );
    case "GET jobs/{id}/results":
      return pageOf(found.results, query);
    case "GET jobs/{id}/failures":
      return { groups: found.failures };
    case "GET jobs/{id}/logs":
      return logPage(found, query);
    case "POST jobs/{id}/cancel":
      if (!isFinalJobStatus(found.job.status)) found.job = { ...found.job, status: "cancelled" };
      return found.job;
    case "POST jobs/{id}/retry":
      if (!isFinalJobStatus(found.job.status)) throw new Problem("conflict", "The job has not ended.");
      return addJob(state, makeJob({ retryOf: found.job.id, ...state.onSubmit(undefined) }));
    default:
      throw new Problem("not_found", `nothing at ${at}`);
  }
}

function logPage(found: JobState, { cursor = "0", limit = "50", taskId }: Received["query"]) {
  const after = found.logs.filter(
    (line) => Number(line.id) > Number(cursor) && (taskId === undefined || line.taskId === taskId),
  );
  const items = after.slice(0, Number(limit));
  return { items, nextCursor: items.at(-1)?.id ?? null };
}

async function waitForChange(
  state: State,
  found: JobState,
  { timeout = "30", revision }: Received["query"],
): Promise<void> {
  const isEnough = () =>
    isFinalJobStatus(found.job.status) || (revision !== undefined && found.job.revision > Number(revision));
  const until = Date.now() + Number(timeout) * 1_000;
  while (!isEnough() && Date.now() < until) await nextChange(state, until - Date.now());
}

function nextChange(state: State, limitMs: number): Promise<void> {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      state.changed.delete(wake);
      resolve();
    };
    const timer = setTimeout(wake, limitMs);
    state.changed.add(wake);
  });
}

async function stream(state: State, found: JobState, { query }: Received, response: ServerResponse): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(": hello\n\n");
  state.streams.add(response);
  let after = Number(query.after ?? "0");
  while (!response.destroyed) {
    for (const line of found.logs.filter(({ id }) => Number(id) > after)) {
      after = Number(line.id);
      response.write(`event: log\nid: ${line.id}\ndata: ${JSON.stringify(line)}\n\n`);
    }
    const isOver = isFinalJobStatus(found.job.status);
    response.write(`event: ${isOver ? "end" : "job"}\ndata: ${JSON.stringify(found.job)}\n\n`);
    if (isOver) break;
    await nextChange(state, 5_000);
  }
  state.streams.delete(response);
  response.end();
}

/** A problem as an answer. */
export function problemAnswer(code: ErrorCode, detail: string): Answer {
  const document = problemDocument(new Problem(code, detail));
  return { status: document.status, json: document };
}
