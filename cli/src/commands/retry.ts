import type { Command } from "commander";
import type { ExitCode } from "../exit-codes.ts";
import { addWaitOptions, type WaitOptions } from "../job-options.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc retry - --wait
  $ new=$(pc retry job_01k...) && pc logs -f "$new"`;

export function define(command: Command, run: Run): void {
  command
    .description(
      "Runs the failed and cancelled tasks of a job again, as a new job that is linked to it. Prints the new job's id.",
    )
    .argument("<id>", 'id of a job that has ended; "-" for your newest')
    .addHelpText("after", EXAMPLES);
  addWaitOptions(command);
  command.action((id: string, options: WaitOptions) => run(command, (session) => retryJob(session, id, options)));
}

async function retryJob(session: Session, id: string, options: WaitOptions): Promise<ExitCode> {
  const { resolveJobId } = await import("../job-ids.ts");
  const { concludeSubmission } = await import("../submitted.ts");
  const api = await session.api();
  const startedAt = Date.now();
  const job = await api.retry(await resolveJobId(api, id));
  return concludeSubmission(session, api, job, options, { startedAt });
}
