import { setTimeout as sleep } from "node:timers/promises";
import { CliError, ServerProblem } from "./cli-error.ts";
import type { Settings } from "./config.ts";
import { EXIT } from "./exit-codes.ts";
import { useProxyOfEnvironment } from "./proxy.ts";
import { bodyToSend, limitNetwork, type NetworkLimit } from "./upload.ts";

/** How long one request is tried again from its first failure on, once the server has answered before. */
const RETRY_MS = 30_000;
/** The same, while nothing has ever answered at the address: it is more likely wrong than restarting. */
const FIRST_CONTACT_MS = 1_000;
const BACKOFF_FIRST_MS = 50;
const BACKOFF_MAX_MS = 2_000;
/** For an answer that is not waited for on purpose; a wait adds its own time. Also for each piece of a long body. */
const READ_TIMEOUT_MS = 60_000;
const RETRY_AFTER_MAX_MS = 30_000;
/** A foreign server's error page may be long. */
const ERROR_BODY_CHARS_MAX = 1_000_000;

const RETRIED_STATUSES = new Set([429, 502, 503, 504]);
const RETRIED_CODES = new Set<unknown>([undefined, "unavailable", "too_many_requests"]);

type QueryValue = string | number | readonly string[] | undefined;

export interface Request {
  readonly method: "GET" | "POST" | "PATCH";
  readonly path: string;
  readonly query?: Readonly<Record<string, QueryValue>>;
  /** Made anew for each try. */
  readonly body?: { readonly type: string; readonly make: () => string | AsyncIterable<Uint8Array> };
  readonly idempotencyKey?: string;
  /** How long the server may hold the answer back on purpose. */
  readonly heldMs?: number;
  /** How long to go on trying when the server can't be reached; the default depends on whether it was there before. */
  readonly retryMs?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Transport {
  readonly settings: Settings;
  /** The parsed answer. Requests must be repeatable: a GET, or a POST that is idempotent or carries a key. */
  send(request: Request): Promise<unknown>;
  /** An answer that goes on (server-sent events), as chunks. Not repeated. */
  stream(request: Pick<Request, "path" | "query" | "signal">): Promise<AsyncIterable<Uint8Array>>;
  /** One try, whatever it answers. For checks of the server itself. */
  probe(path: string): Promise<{ status: number; headers: Headers; body: string }>;
}

export function openTransport(settings: Settings, userAgent: string): Transport {
  useProxyOfEnvironment(settings.address, process.env);
  const state = { answered: false };
  const headers = { authorization: `Bearer ${settings.token}`, accept: "application/json", "user-agent": userAgent };
  return {
    settings,
    send: (request) => sendWithRetries(settings.address, headers, state, request),
    stream: (request) => openStream(settings.address, headers, request),
    async probe(path) {
      const limit = limitNetwork();
      try {
        const response = await fetchOnce(settings.address, headers, { method: "GET", path }, limit);
        return { status: response.status, headers: response.headers, body: await response.text() };
      } catch (error) {
        throw connectionError(settings.address, error);
      } finally {
        limit.end();
      }
    },
  };
}

async function sendWithRetries(
  address: string,
  headers: Record<string, string>,
  state: { answered: boolean },
  request: Request,
): Promise<unknown> {
  const startedAt = Date.now();
  let failedAt: number | undefined;
  for (let attempt = 1; ; attempt += 1) {
    let delayMs = backoffMs(attempt, Math.random());
    let failure: CliError;
    const limit = limitNetwork();
    try {
      const response = await fetchOnce(address, headers, request, limit);
      state.answered = true;
      if (response.ok) return await parseAnswer(address, response);
      failure = await readProblem(address, response);
      delayMs = Math.max(delayMs, retryAfterMs(response.headers));
    } catch (error) {
      failure = request.signal?.aborted ? abortError(request.signal) : connectionError(address, error);
    } finally {
      limit.end();
    }
    const limitMs = request.retryMs ?? (state.answered ? RETRY_MS : FIRST_CONTACT_MS);
    // An answer may have been held back on purpose for long before it broke; at an address that swallows everything the first try is enough.
    failedAt ??= state.answered ? Date.now() : startedAt;
    if (!isRetried(failure) || Date.now() - failedAt + delayMs > limitMs) throw failure;
    await sleep(delayMs, undefined, { signal: request.signal }).catch(() => {});
  }
}

/** The limit goes on until the caller has read the answer. */
async function fetchOnce(
  address: string,
  headers: Record<string, string>,
  request: Request,
  limit: NetworkLimit,
): Promise<Response> {
  const answerMs = READ_TIMEOUT_MS + (request.heldMs ?? 0);
  limit.start(answerMs);
  const made = request.body?.make();
  const body = made === undefined ? undefined : bodyToSend(made, limit, { pieceMs: READ_TIMEOUT_MS, answerMs });
  return fetch(address + targetOf(request), {
    method: request.method,
    headers: {
      ...headers,
      ...(request.body === undefined ? {} : { "content-type": request.body.type }),
      ...(request.idempotencyKey === undefined ? {} : { "idempotency-key": request.idempotencyKey }),
    },
    ...(body === undefined ? {} : { body, duplex: "half" }),
    // The token must not follow a redirect to another host.
    redirect: "manual",
    signal: request.signal === undefined ? limit.signal : AbortSignal.any([request.signal, limit.signal]),
  } as RequestInit);
}

export function targetOf(request: Pick<Request, "path" | "query">): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(request.query ?? {})) {
    if (value === undefined) continue;
    for (const one of Array.isArray(value) ? value : [value]) query.append(name, String(one));
  }
  const text = query.toString();
  return text === "" ? request.path : `${request.path}?${text}`;
}

async function openStream(
  address: string,
  headers: Record<string, string>,
  request: Pick<Request, "path" | "query" | "signal">,
): Promise<AsyncIterable<Uint8Array>> {
  let response: Response;
  try {
    response = await fetch(address + targetOf(request), {
      headers: { ...headers, accept: "text/event-stream" },
      redirect: "manual",
      signal: request.signal ?? null,
    });
  } catch (error) {
    throw request.signal?.aborted ? abortError(request.signal) : connectionError(address, error);
  }
  if (!response.ok) throw await readProblem(address, response);
  if (response.body === null || !/event-stream/.test(response.headers.get("content-type") ?? "")) {
    await response.body?.cancel();
    throw foreignAnswer(address, response);
  }
  return response.body;
}

async function parseAnswer(address: string, response: Response): Promise<unknown> {
  const text = await response.text();
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw foreignAnswer(address, response);
  }
}

async function readProblem(address: string, response: Response): Promise<CliError> {
  const text = (await response.text()).slice(0, ERROR_BODY_CHARS_MAX);
  try {
    const problem: unknown = JSON.parse(text);
    if (typeof problem === "object" && problem !== null && "code" in problem) {
      return new ServerProblem(response.status, problem as Record<string, unknown>, hintOf(response.status));
    }
  } catch {
    // Not JSON: the page of a proxy, say.
  }
  return foreignAnswer(address, response);
}

function hintOf(status: number): string | undefined {
  return status === 401 ? "log in again with `pc login ADDRESS`, or set FRAZIL_TOKEN" : undefined;
}

/** Doubles with each attempt (from 1); `random` (0 to 1) keeps clients from coming back in step. */
export function backoffMs(attempt: number, random: number): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (attempt - 1)) * (0.5 + random / 2);
}

function retryAfterMs(headers: Headers): number {
  const seconds = Number(headers.get("retry-after") ?? "0");
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0) * 1_000, RETRY_AFTER_MAX_MS) : 0;
}

function isRetried(failure: CliError): boolean {
  if (failure instanceof ServerProblem) {
    return RETRIED_STATUSES.has(failure.status) && RETRIED_CODES.has(failure.problem.code);
  }
  return failure.code === "unreachable" || failure.code === "bad_gateway";
}

function foreignAnswer(address: string, response: Response): CliError {
  const kind = response.headers.get("content-type") ?? "no content type";
  const code = RETRIED_STATUSES.has(response.status) ? "bad_gateway" : "not_frazil";
  return new CliError(
    code,
    EXIT.noServer,
    `${address} answered ${response.status} with ${kind}, which is not an answer of a Frazil server`,
    { hint: "check the address (`pc doctor` shows where it comes from), and any proxy in between" },
  );
}

function abortError(signal: AbortSignal): CliError {
  if (signal.reason instanceof CliError) return signal.reason;
  return new CliError("interrupted", EXIT.interrupted, "interrupted", { cause: signal.reason });
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there (connection refused)",
  ENOTFOUND: "there is no host of that name",
  EAI_AGAIN: "the host's name can't be looked up right now",
  ETIMEDOUT: "the connection timed out",
  UND_ERR_CONNECT_TIMEOUT: "the connection timed out",
  ECONNRESET: "the connection broke",
  UND_ERR_SOCKET: "the connection broke",
  EHOSTUNREACH: "the host can't be reached",
  ENETUNREACH: "the network can't be reached",
};

function connectionError(address: string, error: unknown): CliError {
  if (error instanceof CliError) return error;
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  const timedOut = (error as Error).name === "TimeoutError";
  const reason = timedOut
    ? "it did not answer in time"
    : (REASONS[cause?.code ?? ""] ?? cause?.message ?? (error as Error).message);
  return new CliError("unreachable", EXIT.noServer, `${address} can't be reached: ${reason}`, {
    hint: "start the server (`pc dev` starts one on this machine), or check the address with `pc doctor`",
    cause: error,
  });
}
