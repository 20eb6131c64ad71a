import { Problem } from "@frazil/contracts";
import { createMiddleware } from "hono/factory";
import type { Deps } from "../flow/deps.ts";

const DETAIL =
  "The database does not answer right now. Whether this request was carried out is not known yet: send it again, with the same idempotency key.";

/** Answers 503 while Postgres takes questions and does not answer them, also to requests that wait for it already: they go on, unseen, when it does. */
export function answerStalls(deps: Pick<Deps, "changes">) {
  return createMiddleware(async (_, next) => {
    if (deps.changes.isStalled()) throw new Problem("unavailable", DETAIL);
    let forget = () => {};
    const stall = new Promise<never>((_resolve, reject) => {
      forget = deps.changes.onStall(() => reject(new Problem("unavailable", DETAIL)));
    });
    try {
      await Promise.race([next(), stall]);
    } finally {
      forget();
    }
  });
}
