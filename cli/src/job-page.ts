import { isFinalJobStatus, type Job, type Task } from "@frazil/contracts";
import type { Api } from "./api.ts";
import type { JobOptions } from "./commands/job.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { formatAgo, formatCount, formatDuration, withoutControls } from "./format.ts";
import { type ListOptions, showList } from "./lists.ts";
import { countsInWords, describeError, formatKey, printResults, showFailures, showResult } from "./outcome.ts";
import { paintStatus } from "./paint.ts";
import type { Session } from "./session.ts";
import type { Column } from "./table.ts";

const LABEL_WIDTH = 12;

/** Everything about one job on a page. Showing it succeeds whatever the job's status is. */
export async function showJobPage(session: Session, api: Api, jobId: string): Promise<ExitCode> {
  const job = await api.job(jobId);
  if (session.json) session.printJson(job);
  else if (session.quiet) session.print(job.status);
  else await showInWords(session, api, job);
  return EXIT.ok;
}

async function showInWords(session: Session, api: Api, job: Job): Promise<void> {
  const { paint } = session;
  session.print(`${paint("bold", job.id)} ${paintStatus(paint, job.status)}${countsInWords(job)}`);
  for (const [label, text] of factsOf(job, session.io.now())) {
    session.print(`  ${paint("dim", label.padEnd(LABEL_WIDTH))}${withoutControls(text)}`);
  }
  if (job.result !== null) await showResult(session, job.result);
  if (job.counts.failed > 0) await showFailures(session, api, job);
  else if (job.error !== null) session.io.stderr.write(`\n${describeError(session, job.error)}\n`);
  const more = hintsOf(job);
  if (more.length > 0) session.note(`\n${session.paintError("dim", more.join("\n"))}`);
}

function factsOf(job: Job, nowMs: number): [string, string][] {
  const { shape, counts, output } = job;
  const running = isFinalJobStatus(job.status) ? [] : [`${counts.queued} queued`, `${counts.running} running`];
  const facts: [string, string | null][] = [
    ["name", job.name],
    [
      "labels",
      Object.entries(job.labels)
        .map(([key, value]) => `${key}=${value}`)
        .join(", ") || null,
    ],
    ["user", job.user],
    ["phase", job.phase],
    ["mode", job.partitionBy === null ? job.mode : `${job.mode}, by ${job.partitionBy.join(", ")}`],
    ["tasks", running.length > 0 ? running.join(", ") : null],
    [
      "machines",
      `${formatCount(shape.clusterSize, "node")} of ${formatCount(shape.cpus, "core")} and ${shape.memoryGiB} GiB on ${shape.cloud}`,
    ],
    ["cluster", job.clusterId],
    ["runs on", `Polars ${job.polars}, ${job.engine} engine`],
    [
      "writes",
      output.destination === null
        ? null
        : `${output.format} to ${output.destination}${output.mode === "error" ? "" : ` (${output.mode})`}`,
    ],
    ["created", `${job.createdAt} (${formatAgo(job.createdAt, nowMs)})`],
    ["waited", job.startedAt === null ? null : formatDuration(Date.parse(job.startedAt) - Date.parse(job.createdAt))],
    [
      "took",
      job.startedAt === null
        ? null
        : formatDuration((job.finishedAt === null ? nowMs : Date.parse(job.finishedAt)) - Date.parse(job.startedAt)),
    ],
    ["retry of", job.retryOf],
    ["log", job.logLines > 0 ? formatCount(job.logLines, "line") : null],
  ];
  return facts.flatMap(([label, text]) => (text === null ? [] : [[label, text] as [string, string]]));
}

/** What can be looked at or done next. */
function hintsOf(job: Job): string[] {
  const hints: string[] = [];
  if (job.logLines > 0) hints.push(`pc logs ${job.id}`);
  if (job.mode !== "single" && job.counts.succeeded > 0) hints.push(`pc job ${job.id} --results`);
  if (job.mode !== "single") hints.push(`pc job ${job.id} --tasks`);
  if (!isFinalJobStatus(job.status)) hints.push(`pc wait ${job.id}`, `pc cancel ${job.id}`);
  else if (job.status !== "succeeded") hints.push(`pc retry ${job.id}`);
  return hints;
}

export async function listTasks(session: Session, api: Api, jobId: string, options: JobOptions): Promise<ExitCode> {
  const { status } = options;
  return showList(session, options, (page) => api.tasks(jobId, { status, ...page }), {
    lines: (task) => [task.id],
    show: (tasks) => showTasks(session, tasks),
  });
}

function showTasks(session: Session, tasks: readonly Task[]): void {
  if (tasks.length === 0) {
    session.note("no tasks");
    return;
  }
  const columns: Column[] = [
    { title: "ID", dropRank: 2 },
    { title: "FRAME", align: "right", dropRank: 1 },
    { title: "KEY", minWidth: 10, dropRank: 1 },
    { title: "STATUS" },
    { title: "TRY", align: "right", dropRank: 5 },
    { title: "TOOK", align: "right", dropRank: 4 },
    { title: "WHAT", minWidth: 12, dropRank: 3 },
  ];
  session.printTable(
    columns,
    tasks.map((task) => taskCells(session, task)),
  );
}

function taskCells({ io, paint }: Session, task: Task): string[] {
  const endMs = task.finishedAt === null ? io.now() : Date.parse(task.finishedAt);
  const what =
    task.error === null ? (task.phase ?? "") : `${task.error.type ?? task.error.code}: ${task.error.message}`;
  return [
    task.id,
    task.frame === null ? "" : String(task.frame),
    withoutControls(formatKey(task.key)),
    paintStatus(paint, task.status),
    String(task.attempt),
    task.startedAt === null ? "" : formatDuration(endMs - Date.parse(task.startedAt)),
    withoutControls(what).replace(/\s*\n\s*/g, " "),
  ];
}

export async function listResults(session: Session, api: Api, jobId: string, options: ListOptions): Promise<ExitCode> {
  return showList(session, options, (page) => api.results(jobId, page), {
    lines: ({ locations }) => locations,
    show: (results) => (results.length === 0 ? session.note("no results") : printResults(session, results)),
  });
}

export async function listFailures(session: Session, api: Api, jobId: string): Promise<ExitCode> {
  if (session.json) {
    session.printJson({ groups: await api.failures(jobId) });
    return EXIT.ok;
  }
  const job = await api.job(jobId);
  if (job.counts.failed === 0 && job.error === null) session.note("no failures");
  else await showFailures(session, api, job);
  return EXIT.ok;
}
