import type { Job, JobMode, JobStatus } from "@frazil/contracts";
import { type Command, Option } from "commander";
import type { ExitCode } from "../exit-codes.ts";
import { formatAgo, formatDuration, withoutControls } from "../format.ts";
import { doneCount } from "../job-end.ts";
import { addListOptions, type ListOptions, showList } from "../lists.ts";
import { onlyLabel } from "../option-values.ts";
import { paintStatus } from "../paint.ts";
import type { Run, Session } from "../session.ts";
import type { Column } from "../table.ts";

const EXAMPLES = `
Examples:
  $ pc jobs                                    your workspace's newest jobs
  $ pc jobs --status failed --user ann --limit 5
  $ pc jobs --label team=sales --all --json
  $ pc cancel $(pc jobs --status running --all --quiet)`;

// The contract's own choices, spelled out so that --help need not load the contract; a test compares them.
export const JOB_STATUSES: readonly JobStatus[] = ["queued", "running", "succeeded", "failed", "cancelled"];
export const JOB_MODES: readonly JobMode[] = ["single", "distributed", "partitioned", "many"];

interface JobsOptions extends ListOptions {
  readonly status?: JobStatus;
  readonly mode?: JobMode;
  readonly user?: string;
  readonly label?: Readonly<Record<string, string>>;
}

export function define(command: Command, run: Run): void {
  command
    .description("Lists jobs, newest first. --quiet prints their ids alone.")
    .addHelpText("after", EXAMPLES)
    .addOption(new Option("--status <status>", "only jobs in this status").choices(JOB_STATUSES))
    .addOption(new Option("--mode <mode>", "only jobs of this mode").choices(JOB_MODES))
    .option("--user <name>", "only this user's jobs")
    .option("--label <key=value>", "only jobs with this label (one at most)", onlyLabel);
  addListOptions(command);
  command.action((options: JobsOptions) => run(command, (session) => listJobs(session, options)));
}

async function listJobs(session: Session, options: JobsOptions): Promise<ExitCode> {
  const api = await session.api();
  const [label] = Object.entries(options.label ?? {}).map(([key, value]) => `${key}:${value}`);
  const { status, mode, user } = options;
  return showList(session, options, (page) => api.jobs({ status, mode, user, label, ...page }), {
    lines: (job) => [job.id],
    show: (jobs) => showJobs(session, jobs),
  });
}

function showJobs(session: Session, jobs: readonly Job[]): void {
  if (jobs.length === 0) {
    session.note("no jobs");
    return;
  }
  const columns: Column[] = [
    { title: "ID" },
    { title: "NAME", minWidth: 8, dropRank: 3 },
    { title: "STATUS" },
    { title: "MODE", dropRank: 4 },
    { title: "TASKS", align: "right", dropRank: 1 },
    { title: "USER", minWidth: 6, dropRank: 6 },
    { title: "CREATED", align: "right", dropRank: 2 },
    { title: "TOOK", align: "right", dropRank: 5 },
  ];
  session.printTable(
    columns,
    jobs.map((job) => cellsOf(session, job)),
  );
}

function cellsOf({ io, paint }: Session, job: Job): string[] {
  const { counts } = job;
  const tasks = `${doneCount(job)}/${counts.total}`;
  return [
    job.id,
    withoutControls(job.name ?? ""),
    paintStatus(paint, job.status),
    job.mode,
    counts.failed > 0 ? paint("red", tasks) : tasks,
    withoutControls(job.user),
    formatAgo(job.createdAt, io.now()),
    job.startedAt === null
      ? ""
      : formatDuration((job.finishedAt === null ? io.now() : Date.parse(job.finishedAt)) - Date.parse(job.startedAt)),
  ];
}
