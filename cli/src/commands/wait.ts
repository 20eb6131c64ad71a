import type { Command } from "commander";
import { EXIT, type ExitCode } from "../exit-codes.ts";
import { parseDurationMs } from "../option-values.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
The exit code says how the jobs have ended: 0 all succeeded, 1 one failed, 5 none failed but one was cancelled,
6 the time was over. With --json, a line of JSON for each job.

Examples:
  $ pc wait -
  $ pc wait job_01k... --timeout 10m --quiet && echo done`;

interface WaitOptions {
  readonly timeout?: number;
  readonly follow?: boolean;
}

export function define(command: Command, run: Run): void {
  command
    .description("Waits until jobs have ended, and shows their results. Ctrl-C stops the waiting; the jobs go on.")
    .argument("<ids...>", 'ids of jobs; "-" for your newest')
    .addHelpText("after", EXAMPLES)
    .option("--timeout <duration>", "stop waiting after this time, such as 10m", parseDurationMs)
    .option("--follow", "show on stderr what the queries write");
  command.action((ids: string[], options: WaitOptions) =>
    run(command, (session) => waitForJobs(session, ids, options)),
  );
}

async function waitForJobs(session: Session, ids: readonly string[], options: WaitOptions): Promise<ExitCode> {
  const { resolveJobId } = await import("../job-ids.ts");
  const { waitTimedOut, withDeadline } = await import("../job-end.ts");
  const { concludeWait } = await import("../submitted.ts");
  const api = await session.api();
  const deadlineAt = options.timeout === undefined ? undefined : Date.now() + options.timeout;
  const jobIds: string[] = [];
  for (const id of ids) jobIds.push(await resolveJobId(api, id));
  const codes: ExitCode[] = [];
  for (const jobId of jobIds) {
    const timedOut = () => waitTimedOut(jobId);
    const job = await withDeadline(deadlineAt, timedOut, (signal) => api.job(jobId, { signal }));
    codes.push(await concludeWait(session, api, job, { deadlineAt, follow: options.follow ?? false }));
  }
  return codes.includes(EXIT.jobFailed) ? EXIT.jobFailed : (codes.find((code) => code !== EXIT.ok) ?? EXIT.ok);
}
