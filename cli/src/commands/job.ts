import type { TaskStatus } from "@frazil/contracts";
import { type Command, Option } from "commander";
import { usageError } from "../cli-error.ts";
import type { ExitCode } from "../exit-codes.ts";
import { addListOptions, type ListOptions } from "../lists.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc job -                                   your newest job
  $ pc job job_01k... --tasks --status failed
  $ pc job job_01k... --results --all --json | jq -r '.items[].locations[]'
  $ pc job job_01k... --failures               what went wrong, alike failures once`;

// The contract's own choices, spelled out so that --help need not load the contract; a test compares them.
export const TASK_STATUSES: readonly TaskStatus[] = [
  "queued",
  "leased",
  "running",
  "publishing",
  "succeeded",
  "failed",
  "cancelled",
];

export interface JobOptions extends ListOptions {
  readonly tasks?: boolean;
  readonly results?: boolean;
  readonly failures?: boolean;
  readonly status?: TaskStatus;
}

export function define(command: Command, run: Run): void {
  command
    .description("Shows a job: status, counts, timings, error and result. Or its tasks, results or failures.")
    .argument("<id>", 'id of the job; "-" for your newest')
    .addHelpText("after", EXAMPLES)
    .option("--tasks", "list its tasks")
    .addOption(new Option("--status <status>", "with --tasks: only tasks in this status").choices(TASK_STATUSES))
    .option("--results", "list its results")
    .option("--failures", "show its failures, grouped");
  addListOptions(command);
  command.action((id: string, options: JobOptions) => run(command, (session) => showJob(session, id, options)));
}

async function showJob(session: Session, id: string, options: JobOptions): Promise<ExitCode> {
  const views = [options.tasks, options.results, options.failures].filter(Boolean).length;
  if (views > 1) throw usageError("--tasks, --results and --failures exclude each other");
  if (options.status !== undefined && !options.tasks) throw usageError("--status is for --tasks");
  const { showJobPage, listTasks, listResults, listFailures } = await import("../job-page.ts");
  const { resolveJobId } = await import("../job-ids.ts");
  const api = await session.api();
  const jobId = await resolveJobId(api, id);
  if (options.tasks) return listTasks(session, api, jobId, options);
  if (options.results) return listResults(session, api, jobId, options);
  return options.failures ? listFailures(session, api, jobId) : showJobPage(session, api, jobId);
}
