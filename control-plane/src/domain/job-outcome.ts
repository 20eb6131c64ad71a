import type { ErrorInfo } from "@frazil/contracts";
import type { JobEvent } from "./lifecycles.ts";

export interface JobTally {
  readonly splitsOpen: number;
  readonly total: number;
  readonly succeeded: number;
  readonly failed: number;
  readonly cancelled: number;
}

/** How a job ends, once nothing of it is open; undefined while something is. */
export function decideJobEnd(tally: JobTally): JobEvent | undefined {
  if (tally.splitsOpen > 0) return undefined;
  if (tally.succeeded + tally.failed + tally.cancelled < tally.total) return undefined;
  if (tally.failed > 0) return "fail";
  if (tally.cancelled > 0) return "cancel";
  return "succeed";
}

/** A job's own error: the task's for a job of one task, else a summary that carries the most common one. */
export function summariseFailures(tally: JobTally, first: ErrorInfo | null): ErrorInfo | null {
  if (tally.failed === 0 || first === null) return null;
  if (tally.total === 1) return first;
  return {
    ...first,
    message: `${tally.failed} of ${tally.total} tasks failed; one of them with: ${first.message}`.slice(0, 8_000),
  };
}
