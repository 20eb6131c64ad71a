import { createHash } from "node:crypto";
import { Problem } from "@frazil/contracts";

/** What a request was made under, so that a repeat of it gives what the first one made. */
export interface Repeatable {
  readonly idempotencyKey: string | null;
  readonly requestHash: Buffer | null;
}

/** `request` tells requests apart that may not share a key. */
export function repeatableOf(idempotencyKey: string | null, ...request: readonly string[]): Repeatable {
  if (idempotencyKey === null) return { idempotencyKey, requestHash: null };
  return { idempotencyKey, requestHash: createHash("sha256").update(JSON.stringify(request)).digest() };
}

/** What the first request with this key made, if this is the same request. `first` is undefined when what it made is gone. */
export function sameAsFirst<Row extends { readonly request_hash: Buffer | null }>(
  first: Row | undefined,
  { requestHash }: Repeatable,
): Row {
  if (first === undefined)
    throw new Problem("unavailable", "The first request with this idempotency key is not complete; send it again.");
  if (requestHash === null || first.request_hash === null || !first.request_hash.equals(requestHash)) {
    throw new Problem(
      "idempotency_mismatch",
      "This idempotency key was used before with another body; use a new key for another request.",
    );
  }
  return first;
}
