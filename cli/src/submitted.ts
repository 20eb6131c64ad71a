import { isFinalJobStatus, type Job } from "@frazil/contracts";
import type { Api } from "./api.ts";
import { CliError } from "./cli-error.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { withInterrupt } from "./job-end.ts";
import type { WaitOptions } from "./job-options.ts";
import { printLogLine } from "./log-lines.ts";
import { type FrameName, showEnd } from "./outcome.ts";
import type { Session } from "./session.ts";
import { watchJob } from "./wait.ts";

export function isWaiting(options: WaitOptions): boolean {
  return Boolean(options.wait || options.follow || options.waitTimeout !== undefined);
}

/** Sends a submission. Ctrl-C meanwhile leaves open whether it was accepted, and says so. */
export function sendInterruptibly<T>(session: Session, send: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const error = () =>
    new CliError("interrupted", EXIT.interrupted, "interrupted while sending; the job may have been accepted", {
      hint: "`pc jobs --limit 3` shows whether it was; under one --idempotency-key, sending again makes no second job",
    });
  return withInterrupt(session.io, error, send);
}

/** After a job was accepted: prints its id, or waits for its end and shows that. */
export async function concludeSubmission(
  session: Session,
  api: Api,
  job: Job,
  options: WaitOptions,
  { startedAt, frameName }: { startedAt: number; frameName?: FrameName | undefined },
): Promise<ExitCode> {
  if (!isWaiting(options)) {
    announce(session, job);
    return EXIT.ok;
  }
  if (!isFinalJobStatus(job.status)) session.note(`${job.id} submitted`);
  const deadlineAt = options.waitTimeout === undefined ? undefined : startedAt + options.waitTimeout;
  return concludeWait(session, api, job, { deadlineAt, follow: options.follow ?? false, frameName });
}

interface Waiting {
  readonly deadlineAt: number | undefined;
  readonly follow: boolean;
  readonly frameName?: FrameName | undefined;
}

/** Waits for a job's end and shows it. Where the waiting is cut short, the job as last seen is all that goes to stdout. */
export async function concludeWait(session: Session, api: Api, job: Job, waiting: Waiting): Promise<ExitCode> {
  const prefixed = job.mode !== "single";
  const { job: last, stopped } = await watchJob(session, api, job, {
    deadlineAt: waiting.deadlineAt,
    onLog: waiting.follow ? (line) => printLogLine(session, session.io.stderr, line, { prefixed }) : undefined,
  });
  if (stopped === undefined) return showEnd(session, api, last, waiting.frameName);
  if (session.json) session.printJsonLine(last);
  else session.print(last.id);
  throw stopped;
}

/** The id alone on stdout, so that a shell can take it: id=$(pc submit ...). */
function announce(session: Session, job: Job): void {
  if (session.json) session.printJson(job);
  else session.print(job.id);
  session.note(
    session.paintError("dim", `${job.status}; pc wait ${job.id}, pc logs -f ${job.id}, pc cancel ${job.id}`),
  );
}
