import { type Cluster, type Job, ProblemDocument, type Task, type TaskResult } from "@frazil/contracts";

export interface Answer<T = unknown> {
  readonly status: number;
  readonly body: T;
  readonly headers: Headers;
}

export interface Page<T> {
  readonly items: T[];
  readonly nextCursor: string | null;
}

export interface Api {
  readonly address: string;
  readonly token: string | undefined;
  /** Any request. The body is sent as JSON, unless it is text or a stream. */
  request<T = unknown>(method: string, path: string, options?: RequestOptions): Promise<Answer<T>>;
  /** These expect success, and fail with the problem otherwise. */
  get<T>(path: string): Promise<T>;
  post<T>(path: string, body?: unknown): Promise<T>;
  submit(submission: unknown, options?: { waitSeconds?: number; idempotencyKey?: string }): Promise<Job>;
  job(id: string): Promise<Job>;
  /** The job once it has ended. */
  ended(id: string): Promise<Job>;
  tasks(id: string, query?: string): Promise<Task[]>;
  results(id: string): Promise<TaskResult[]>;
  cluster(id: string): Promise<Cluster>;
}

export interface RequestOptions {
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly signal?: AbortSignal;
}

const REQUEST_WITHIN_MS = 25_000;
const WAIT_SECONDS = 20;

/** Speaks to a control plane as a client does, over HTTP. */
export function openApi(address: string, token: string | undefined): Api {
  const api: Api = {
    address,
    token,
    async request<T>(method: string, path: string, options: RequestOptions = {}) {
      const { body } = options;
      const raw = typeof body === "string" || body instanceof ReadableStream || body instanceof Uint8Array;
      const response = await fetch(`${address}${path}`, {
        method,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...options.headers,
        },
        ...(body === undefined ? {} : { body: raw ? (body as string) : JSON.stringify(body) }),
        ...(body instanceof ReadableStream ? { duplex: "half" } : {}),
        signal: options.signal ?? AbortSignal.timeout(REQUEST_WITHIN_MS),
      } as RequestInit);
      const text = await response.text();
      const isJson = (response.headers.get("content-type") ?? "").includes("json");
      return {
        status: response.status,
        body: (isJson ? JSON.parse(text) : text) as T,
        headers: response.headers,
      };
    },
    get: async <T>(path: string) => expectSuccess(await api.request<T>("GET", path), path),
    post: async <T>(path: string, body?: unknown) =>
      expectSuccess(await api.request<T>("POST", path, body === undefined ? {} : { body }), path),
    async submit(submission, options = {}) {
      const headers: Record<string, string> = typeof submission === "string" ? { "content-type": NDJSON } : {};
      if (options.idempotencyKey !== undefined) headers["idempotency-key"] = options.idempotencyKey;
      const path = `/v1/jobs?wait=${options.waitSeconds ?? 0}`;
      return expectSuccess(await api.request<Job>("POST", path, { body: submission, headers }), path);
    },
    job: (id) => api.get(`/v1/jobs/${id}`),
    async ended(id) {
      const job = await api.get<Job>(`/v1/jobs/${id}/wait?timeout=${WAIT_SECONDS}`);
      if (job.finishedAt === null) throw new Error(`${id} did not end in ${WAIT_SECONDS} s: ${JSON.stringify(job)}`);
      return job;
    },
    tasks: (id, query = "") => readPages(api, `/v1/jobs/${id}/tasks?limit=1000${query}`),
    results: (id) => readPages(api, `/v1/jobs/${id}/results?limit=1000`),
    cluster: (id) => api.get(`/v1/clusters/${id}`),
  };
  return api;
}

export const NDJSON = "application/x-ndjson";

/** Items of all pages. */
export async function readPages<T>(api: Api, path: string): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null = null;
  do {
    const page: Page<T> = await api.get(cursor === null ? path : `${path}&cursor=${cursor}`);
    items.push(...page.items);
    cursor = page.nextCursor;
  } while (cursor !== null);
  return items;
}

function expectSuccess<T>(answer: Answer<T>, path: string): T {
  if (answer.status >= 300) throw new Error(`${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}

/** The problem that an answer is, checked for its form. */
export function problemOf(answer: Answer): ProblemDocument {
  const problem = ProblemDocument.parse(answer.body);
  if (answer.headers.get("content-type") !== "application/problem+json" || problem.status !== answer.status)
    throw new Error(`not a problem document: ${answer.status} ${JSON.stringify(answer.body)}`);
  return problem;
}
