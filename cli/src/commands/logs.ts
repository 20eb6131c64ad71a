import type { LogLine } from "@frazil/contracts";
import type { Command } from "commander";
import type { Api } from "../api.ts";
import { EXIT, type ExitCode } from "../exit-codes.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc logs -f -                               your newest job, as it goes on
  $ pc logs job_01k... --task task_01k... --timestamps
  $ pc logs job_01k... --json | jq -r 'select(.stream == "stderr").text'`;

const PAGE_LINES = 1_000;

interface LogsOptions {
  readonly follow?: boolean;
  readonly task?: string;
  readonly timestamps?: boolean;
}

export function define(command: Command, run: Run): void {
  command
    .description("Shows what a job's queries and functions wrote. With --json: a line of JSON for each.")
    .argument("<id>", 'id of the job; "-" for your newest')
    .addHelpText("after", EXAMPLES)
    .option("-f, --follow", "go on until the job has ended")
    .option("--task <id>", "only what this task wrote")
    .option("--timestamps", "show when each line was written");
  command.action((id: string, options: LogsOptions) => run(command, (session) => showLogs(session, id, options)));
}

async function showLogs(session: Session, id: string, options: LogsOptions): Promise<ExitCode> {
  const { resolveJobId } = await import("../job-ids.ts");
  const { printLogLine } = await import("../log-lines.ts");
  const api = await session.api();
  const jobId = await resolveJobId(api, id);
  const prefixed = options.task === undefined && (await api.job(jobId)).mode !== "single";
  const show = (line: LogLine) => {
    if (session.json) session.printJsonLine(line);
    else printLogLine(session, session.io.stdout, line, { prefixed, timestamps: options.timestamps });
  };
  if (options.follow) await followLogs(session, api, jobId, options.task, show);
  else await readLogs(api, jobId, options.task, show);
  return EXIT.ok;
}

async function readLogs(
  api: Api,
  jobId: string,
  taskId: string | undefined,
  show: (line: LogLine) => void,
): Promise<void> {
  let cursor: string | undefined;
  while (true) {
    const page = await api.logs(jobId, { limit: PAGE_LINES, cursor, taskId });
    page.items.forEach(show);
    // The cursor of a log is set as long as there are lines: a short page is the last one.
    if (page.items.length < PAGE_LINES || page.nextCursor === null || page.nextCursor === cursor) return;
    cursor = page.nextCursor;
  }
}

async function followLogs(
  session: Session,
  api: Api,
  jobId: string,
  taskId: string | undefined,
  show: (line: LogLine) => void,
): Promise<void> {
  const { followJob } = await import("../follow.ts");
  const { interrupted, withInterrupt } = await import("../job-end.ts");
  const onLog = (line: LogLine) => {
    if (taskId === undefined || line.taskId === taskId) show(line);
  };
  await withInterrupt(
    session.io,
    () => interrupted(jobId),
    (signal) => followJob(api, jobId, { signal, onLog }),
  );
}
