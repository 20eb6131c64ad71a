import { ERRORS, type ErrorCode } from "@frazil/contracts";

/** Extra attempts for finishing a publishing that was already fenced: giving up half-way would leave a half-published output. */
const PUBLISH_ATTEMPTS_EXTRA = 5;
const BACKOFF_FIRST_MS = 200;
const BACKOFF_MAX_MS = 30_000;

export interface FailedAttempt {
  readonly code: ErrorCode;
  /** What the engine says of this very failure (for example a 503 from storage). */
  readonly retryable: boolean;
  readonly attempt: number;
  readonly attemptsMax: number;
  readonly publishing: boolean;
}

export type AfterFailure = { readonly kind: "retry"; readonly delayMs: number } | { readonly kind: "fail" };

/** Whether a failed attempt is tried again, and when. User errors never are; `random` in [0, 1) spreads the retries. */
export function decideAfterFailure(failed: FailedAttempt, random: number): AfterFailure {
  if (!ERRORS[failed.code].retry || !failed.retryable) return { kind: "fail" };
  const attemptsMax = failed.attemptsMax + (failed.publishing ? PUBLISH_ATTEMPTS_EXTRA : 0);
  if (failed.attempt >= attemptsMax) return { kind: "fail" };
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (failed.attempt - 1));
  return { kind: "retry", delayMs: Math.round(ceiling * (0.5 + random / 2)) };
}
