import { ERRORS, type ErrorCode } from "@frazil/contracts";

/** Extra attempts for finishing a publishing that was already fenced: giving up half-way would leave a half-published output. */
const PUBLISH_ATTEMPTS_EXTRA = 5;
const BACKOFF_FIRST_MS = 200;
const BACKOFF_MAX_MS = 30_000;
/** A task that nodes give back so often without running it is failed; the first few times it is at the next node at once. */
export const RELEASES_MAX = 50;
const RELEASES_AT_ONCE_MAX = 3;

export interface FailedAttempt {
  readonly code: ErrorCode;
  /** What the engine says of this very failure (for example a 503 from storage). */
  readonly retryable: boolean;
  /** Attempts that ran or were lost, this one included; not those that were given back. */
  readonly tries: number;
  readonly attemptsMax: number;
  readonly publishing: boolean;
}

export type AfterFailure = { readonly kind: "retry"; readonly delayMs: number } | { readonly kind: "fail" };

/** Whether a failed attempt is tried again, and when. User errors never are; `random` in [0, 1) spreads the retries. */
export function decideAfterFailure(failed: FailedAttempt, random: number): AfterFailure {
  if (!ERRORS[failed.code].retry || !failed.retryable) return { kind: "fail" };
  const attemptsMax = failed.attemptsMax + (failed.publishing ? PUBLISH_ATTEMPTS_EXTRA : 0);
  if (failed.tries >= attemptsMax) return { kind: "fail" };
  return { kind: "retry", delayMs: backoffMs(failed.tries, random) };
}

/** What becomes of a task that a node gave back without running it (a drain, say) for the `releases`th time. */
export function decideAfterRelease(releases: number, random: number): AfterFailure {
  if (releases > RELEASES_MAX) return { kind: "fail" };
  if (releases <= RELEASES_AT_ONCE_MAX) return { kind: "retry", delayMs: 0 };
  return { kind: "retry", delayMs: backoffMs(releases - RELEASES_AT_ONCE_MAX, random) };
}

function backoffMs(number: number, random: number): number {
  return Math.round(Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (number - 1)) * (0.5 + random / 2));
}
