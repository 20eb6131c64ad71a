import { ERRORS, Problem, problemDocument } from "@frazil/contracts";
import type { Context } from "hono";
import { HTTPException } from "hono/http-exception";
import type { Logger } from "pino";

const RETRY_AFTER_SECONDS = "2";
/** What Postgres and its driver say when the database, not the request, is in the way. */
const UNAVAILABLE =
  /ECONNREFUSED|Query read timeout|ECONNRESET|EPIPE|Connection terminated|timeout exceeded when trying to connect|the database system is|too many clients|terminating connection|No space left|could not extend|statement timeout/i;
/** SQLSTATEs, and the codes that Prisma makes of them. A lock that can't be had, or a deadlock, is over in a moment: a repeat waits for its first request's. */
const UNAVAILABLE_STATES = /^(08|53|57P0|58030|55P03|40P01|40001|P1001|P1002|P1008|P1017|P2024|P2037)/;

/** Text that Postgres can't keep: NUL, or (within JSON) half of a surrogate pair. */
const UNKEEPABLE_STATES = ["22021", "22P05"];
const UNKEEPABLE_JSON = /^invalid input syntax for type json/;

/** Turns whatever was thrown into a problem: callers' mistakes as they are, a database in trouble into 503, the rest into 500 without a word of the cause. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof HTTPException) {
    if (error.status === 413)
      return new Problem("too_large", "The request's body is larger than what is accepted here.");
    return new Problem("invalid_request", error.message === "" ? "The request is not valid." : error.message, {
      cause: error,
    });
  }
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  if (UNKEEPABLE_STATES.includes(String(code)) || (code === "22P02" && UNKEEPABLE_JSON.test(String(message)))) {
    return new Problem(
      "invalid_request",
      "A text holds a character that can't be kept: NUL (U+0000), or half of a surrogate pair. Leave it out.",
      { cause: error },
    );
  }
  if (
    (typeof code === "string" && UNAVAILABLE_STATES.test(code)) ||
    UNAVAILABLE.test(`${String(code)} ${String(message)}`)
  ) {
    return new Problem(
      "unavailable",
      "The database can't be asked right now. Try again in a moment; a repeat with the same idempotency key is harmless.",
      { cause: error },
    );
  }
  return new Problem("internal", "Something went wrong on our side; the server's log says more.", { cause: error });
}

export function answerProblem(c: Context, error: unknown, log: Logger): Response {
  const problem = problemOf(error);
  const kind = ERRORS[problem.code];
  if (kind.http >= 500)
    log.error({ err: problem.cause ?? problem, code: problem.code, path: c.req.path }, "request failed");
  const headers: Record<string, string> = { "content-type": "application/problem+json" };
  if (kind.http === 503 || kind.http === 429) headers["retry-after"] = RETRY_AFTER_SECONDS;
  if (kind.http === 401) headers["www-authenticate"] = "Bearer";
  // The rest of the body, should it ever come, is not waited for.
  if (kind.http === 408) headers.connection = "close";
  return c.body(JSON.stringify(problemDocument(problem, c.req.path)), kind.http as 400, headers);
}
