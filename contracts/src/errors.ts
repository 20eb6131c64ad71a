import { z } from "zod";

/** Who is at fault decides what a caller should do; `retry` says whether the same thing may work later without a change. */
export type Fault = "caller" | "platform" | "cloud" | "user-code";
export interface ErrorKind {
  readonly http: number;
  readonly retry: boolean;
  readonly fault: Fault;
  readonly title: string;
}

/** The one table of error codes: HTTP problems and failures of tasks alike. */
export const ERRORS = {
  // Callers' mistakes.
  invalid_request: { http: 400, retry: false, fault: "caller", title: "The request is not valid" },
  unauthenticated: { http: 401, retry: false, fault: "caller", title: "No valid token was given" },
  not_found: { http: 404, retry: false, fault: "caller", title: "There is no such thing in this workspace" },
  method_not_allowed: { http: 405, retry: false, fault: "caller", title: "This address does not take that method" },
  request_timeout: { http: 408, retry: true, fault: "caller", title: "The request did not arrive in time" },
  conflict: { http: 409, retry: false, fault: "caller", title: "The thing is not in a state that allows this" },
  stale_attempt: { http: 409, retry: false, fault: "platform", title: "This attempt no longer holds the task" },
  too_large: { http: 413, retry: false, fault: "caller", title: "Too large" },
  unsupported_media_type: { http: 415, retry: false, fault: "caller", title: "This content type is not accepted" },
  unprocessable: { http: 422, retry: false, fault: "caller", title: "The request can't be carried out as written" },
  invalid_plan: { http: 422, retry: false, fault: "caller", title: "This is not a Polars plan that can be run" },
  unsupported_polars: { http: 422, retry: false, fault: "caller", title: "No engine runs this Polars release" },
  unsupported_python: { http: 422, retry: false, fault: "caller", title: "No engine has this Python version" },
  idempotency_mismatch: {
    http: 422,
    retry: false,
    fault: "caller",
    title: "The idempotency key was used with another body",
  },
  limit_exceeded: { http: 422, retry: false, fault: "caller", title: "A limit was exceeded" },
  not_available: { http: 422, retry: false, fault: "caller", title: "This installation does not offer that" },
  too_many_requests: { http: 429, retry: true, fault: "caller", title: "Too many requests" },
  // Ours and the cloud's.
  internal: { http: 500, retry: true, fault: "platform", title: "Something went wrong on our side" },
  unavailable: { http: 503, retry: true, fault: "platform", title: "The service is not available right now" },
  capacity: { http: 503, retry: true, fault: "cloud", title: "No capacity for the machines asked for" },
  cluster_failed: { http: 503, retry: false, fault: "cloud", title: "The cluster could not be started" },
  // What can befall a task.
  query_failed: { http: 422, retry: false, fault: "user-code", title: "The query failed" },
  user_code_failed: { http: 422, retry: false, fault: "user-code", title: "The user's own code failed" },
  invalid_key: { http: 422, retry: false, fault: "caller", title: "The query can't be partitioned by this key" },
  destination_not_empty: { http: 409, retry: false, fault: "caller", title: "The destination already holds data" },
  storage_failed: { http: 422, retry: true, fault: "cloud", title: "Storage did not answer as expected" },
  storage_refused: { http: 422, retry: false, fault: "caller", title: "Storage refused access, or the path is wrong" },
  result_unsupported: { http: 422, retry: false, fault: "caller", title: "The result has a column that can't travel" },
  environment_failed: { http: 422, retry: false, fault: "caller", title: "The engine environment could not be made" },
  out_of_memory: { http: 422, retry: false, fault: "user-code", title: "The task used more memory than its limit" },
  timed_out: { http: 422, retry: false, fault: "user-code", title: "The task ran past its deadline" },
  engine_lost: { http: 500, retry: true, fault: "platform", title: "The engine process ended without an answer" },
  node_lost: { http: 500, retry: true, fault: "platform", title: "The node stopped answering" },
  cancelled: { http: 409, retry: false, fault: "caller", title: "Cancelled" },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;
export const ErrorCode = z.enum(Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]]);

/** RFC 9457 problem document. `type` is `urn:frazil:error:<code>`. */
export const ProblemDocument = z.object({
  type: z.string(),
  title: z.string(),
  status: z.number().int(),
  code: ErrorCode,
  detail: z.string(),
  instance: z.string().optional(),
  issues: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
});
export type ProblemDocument = z.infer<typeof ProblemDocument>;

/** A caller's mistake or a named platform condition. `detail` is public; `cause` is only ever logged. */
export class Problem extends Error {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly issues: { path: string; message: string }[] | undefined;

  constructor(code: ErrorCode, detail: string, options: { cause?: unknown; issues?: Problem["issues"] } = {}) {
    super(`${code}: ${detail}`, { cause: options.cause });
    this.name = "Problem";
    this.code = code;
    this.detail = detail;
    this.issues = options.issues;
  }
}

export function problemDocument(problem: Problem, instance?: string): ProblemDocument {
  const kind = ERRORS[problem.code];
  return {
    type: `urn:frazil:error:${problem.code}`,
    title: kind.title,
    status: kind.http,
    code: problem.code,
    detail: problem.detail,
    ...(instance === undefined ? {} : { instance }),
    ...(problem.issues === undefined ? {} : { issues: problem.issues }),
  };
}
