import { isFinalJobStatus, type Job, type LogLine } from "@frazil/contracts";
import type { Api } from "./api.ts";
import { CliError } from "./cli-error.ts";
import { followJob } from "./follow.ts";
import { interrupted, RECONNECT_MS, waitTimedOut, withDeadline, withInterrupt } from "./job-end.ts";
import { openProgress } from "./progress.ts";
import type { Session } from "./session.ts";

/** How long the server holds one answer back. */
const HELD_SECONDS = 20;

export interface Watching {
  /** When to stop, as a time of the clock. */
  readonly deadlineAt?: number | undefined;
  /** Shows what the queries write, in place of a progress bar. */
  readonly onLog?: ((line: LogLine) => void) | undefined;
}
/** The job as last seen, and, when it has not ended, why the watching has. */
export interface Watched {
  readonly job: Job;
  readonly stopped?: CliError;
}

/** Waits for a job's end, showing how it goes. Ctrl-C and the deadline stop the waiting, not the job. */
export async function watchJob(session: Session, api: Api, first: Job, watching: Watching = {}): Promise<Watched> {
  let last = first;
  if (isFinalJobStatus(first.status) && watching.onLog === undefined) return { job: first };
  const progress = watching.onLog === undefined ? await openProgress(session, first) : undefined;
  const onJob = (job: Job) => {
    last = job;
    progress?.update(job);
  };
  const { deadlineAt, onLog } = watching;
  const watch = (signal: AbortSignal) =>
    onLog === undefined ? pollJob(api, first, { onJob, signal }) : followJob(api, first.id, { onLog, onJob, signal });
  try {
    const job = await withInterrupt(
      session.io,
      () => interrupted(first.id),
      (signal) => withDeadline(deadlineAt, () => waitTimedOut(first.id), watch, signal),
    );
    return { job };
  } catch (error) {
    if (error instanceof CliError && (error.code === "interrupted" || error.code === "await_timeout"))
      return { job: last, stopped: error };
    throw error;
  } finally {
    progress?.stop();
  }
}

async function pollJob(
  api: Api,
  first: Job,
  { onJob, signal }: { onJob: (job: Job) => void; signal: AbortSignal },
): Promise<Job> {
  let job = first;
  while (!isFinalJobStatus(job.status)) {
    job = await api.waitJob(job.id, HELD_SECONDS, job.revision, { signal, retryMs: RECONNECT_MS });
    onJob(job);
  }
  return job;
}
