import type { ErrorCode } from "@frazil/contracts";

/** Ends of attempts that an agent tells for an engine which could not clean up: it was killed, or is gone. */
const UNTIDY: ReadonlySet<ErrorCode> = new Set([
  "engine_lost",
  "node_lost",
  "out_of_memory",
  "timed_out",
  "limit_exceeded",
  "storage_failed",
  "internal",
]);

/** Whether an attempt that ended so may have left something in storage. An engine that answers has removed what it had written. */
export function mayLeaveFiles(attempt: {
  readonly status: "succeeded" | "failed" | "lost" | "released" | "returned";
  readonly code: ErrorCode | undefined;
}): boolean {
  if (attempt.status === "lost" || attempt.status === "released") return true;
  return attempt.status === "failed" && attempt.code !== undefined && UNTIDY.has(attempt.code);
}
