import type { Command } from "commander";
import { EXIT, type ExitCode } from "../exit-codes.ts";
import { paintStatus } from "../paint.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc cancel -
  $ pc cancel $(pc jobs --status running --label nightly=yes --all --quiet)`;

export function define(command: Command, run: Run): void {
  command
    .description("Cancels jobs. Tasks that had succeeded keep their results. A job that has ended stays as it is.")
    .argument("<ids...>", 'ids of jobs; "-" for your newest')
    .addHelpText("after", EXAMPLES)
    .action((ids: string[]) => run(command, (session) => cancelJobs(session, ids)));
}

async function cancelJobs(session: Session, ids: readonly string[]): Promise<ExitCode> {
  const { resolveJobId } = await import("../job-ids.ts");
  const api = await session.api();
  for (const id of ids) {
    const job = await api.cancel(await resolveJobId(api, id));
    if (session.json) session.printJsonLine(job);
    else if (session.quiet) session.print(job.id);
    else session.print(`${job.id} ${paintStatus(session.paint, job.status)}`);
  }
  return EXIT.ok;
}
