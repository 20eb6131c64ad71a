import type { Job, JobStatus } from "@frazil/contracts";
import { CliError } from "./cli-error.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import type { Io } from "./io.ts";

/** A job that was accepted goes on without us: a server that is away is waited for, for as long as this. */
export const RECONNECT_MS = 10 * 60_000;

/** The exit code that says how a job has ended. */
export function exitCodeOf(status: JobStatus): ExitCode {
  if (status === "succeeded") return EXIT.ok;
  return status === "cancelled" ? EXIT.cancelled : EXIT.jobFailed;
}

export function doneCount({ counts }: Pick<Job, "counts">): number {
  return counts.succeeded + counts.failed + counts.cancelled;
}

export function interrupted(jobId: string): CliError {
  return new CliError("interrupted", EXIT.interrupted, `interrupted; ${jobId} goes on`, {
    hint: `\`pc wait ${jobId}\` waits for it again, \`pc cancel ${jobId}\` stops it`,
    jobId,
  });
}

export function waitTimedOut(jobId: string): CliError {
  return new CliError(
    "await_timeout",
    EXIT.waitTimedOut,
    `${jobId} had not ended when the time to wait was over; it goes on`,
    {
      hint: `\`pc wait ${jobId}\` waits for it again, \`pc cancel ${jobId}\` stops it`,
      jobId,
    },
  );
}

/** Runs a body with a signal that Ctrl-C aborts with the given error. A second Ctrl-C ends the process as always. */
export async function withInterrupt<T>(
  io: Pick<Io, "onInterrupt">,
  error: () => CliError,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const stopListening = io.onInterrupt(() => {
    stopListening();
    controller.abort(error());
  });
  try {
    return await body(controller.signal);
  } finally {
    stopListening();
  }
}

/** A timer can't be set further ahead: setTimeout takes more for 1 ms. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Runs a body with a signal that the deadline aborts with the given error, if there is a deadline, and that `outer` aborts too. */
export async function withDeadline<T>(
  deadlineAt: number | undefined,
  error: () => CliError,
  body: (signal: AbortSignal) => Promise<T>,
  outer: AbortSignal = new AbortController().signal,
): Promise<T> {
  if (deadlineAt === undefined) return body(outer);
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const abortOrSleep = () => {
    const leftMs = deadlineAt - Date.now();
    if (leftMs <= 0) controller.abort(error());
    else timer = setTimeout(abortOrSleep, Math.min(leftMs, TIMER_MS_MAX));
  };
  abortOrSleep();
  try {
    return await body(AbortSignal.any([outer, controller.signal]));
  } finally {
    clearTimeout(timer);
  }
}
