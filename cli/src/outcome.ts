import { type FailureGroup, isFinalJobStatus, type Job, type TaskResult } from "@frazil/contracts";
import type { Api } from "./api.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { formatCount, formatDuration, withoutControls } from "./format.ts";
import { exitCodeOf } from "./job-end.ts";
import { paintStatus } from "./paint.ts";
import type { Session } from "./session.ts";
import type { Column } from "./table.ts";

const HEAD_ROWS_SHOWN_MAX = 20;
const RESULTS_SHOWN_MAX = 20;
const GROUPS_SHOWN_MAX = 10;
const SCHEMA_SHOWN_MAX = 100;

/** Names of the frames of a `many` job, where this process sent them. */
export type FrameName = (frame: number) => string | undefined;

/** Shows how a job has ended, results on stdout and failures on stderr. With --json: the job. Gives the exit code that says it. */
export async function showEnd(session: Session, api: Api, job: Job, frameName?: FrameName): Promise<ExitCode> {
  if (session.json) session.printJson(job);
  else if (session.quiet) session.print(job.id);
  else await showInWords(session, api, job, frameName);
  return isFinalJobStatus(job.status) ? exitCodeOf(job.status) : EXIT.ok;
}

async function showInWords(session: Session, api: Api, job: Job, frameName: FrameName | undefined): Promise<void> {
  session.print(headline(session, job));
  if (job.result !== null) await showResult(session, job.result);
  else if (job.mode !== "single" && job.counts.succeeded > 0) await showResults(session, api, job, frameName);
  if (job.status === "failed" || job.counts.failed > 0) await showFailures(session, api, job, frameName);
}

/** `job_01... succeeded in 3.4 s (98 of 100 tasks, 2 failed)`. */
function headline({ paint }: Session, job: Job): string {
  const from = Date.parse(job.createdAt);
  const took = job.finishedAt === null ? "" : ` in ${formatDuration(Date.parse(job.finishedAt) - from)}`;
  return `${job.id} ${paintStatus(paint, job.status)}${took}${countsInWords(job)}`;
}

/** Tasks in words; nothing for a single query. */
export function countsInWords({ mode, counts }: Pick<Job, "mode" | "counts">): string {
  if (mode === "single") return "";
  const parts = [`${counts.succeeded.toLocaleString("en-US")} of ${formatCount(counts.total, "task")} succeeded`];
  if (counts.failed > 0) parts.push(`${counts.failed.toLocaleString("en-US")} failed`);
  if (counts.cancelled > 0) parts.push(`${counts.cancelled.toLocaleString("en-US")} cancelled`);
  return `: ${parts.join(", ")}`;
}

/** One result: its first rows if they can be read, else its schema; then rows and locations. */
export async function showResult(session: Session, result: TaskResult): Promise<void> {
  // The reader of Arrow is loaded only when there is something to read.
  const rows = result.head === null ? undefined : (await import("./head.ts")).readHead(result, HEAD_ROWS_SHOWN_MAX);
  session.print("");
  if (rows === undefined) showSchema(session, result);
  else showHead(session, result, rows);
  const size = `${formatCount(result.rows, "row")}, ${formatCount(result.schema.length, "column")}`;
  session.print(session.paint("dim", size));
  for (const location of result.locations) session.print(withoutControls(location));
  for (const warning of result.warnings) session.note(`${warning.category}: ${withoutControls(warning.message)}`);
}

function showHead(session: Session, result: TaskResult, rows: readonly string[][]): void {
  const last = result.schema.length - 1;
  // Where there is too little room, the columns in the middle go first.
  const columns = result.schema.map(
    ({ name }, index): Column => ({
      title: withoutControls(name),
      minWidth: 8,
      dropRank: Math.min(index, last - index + 1),
    }),
  );
  const types = result.schema.map(({ dtype }) => session.paint("dim", shortType(dtype)));
  const leftOut = session.printTable(columns, [types, ...rows]);
  if (leftOut > 0) session.print(session.paint("dim", `${formatCount(leftOut, "column")} more than fit here`));
}

/** Polars' own short names for its types in tables. */
const SHORT_TYPES: Readonly<Record<string, string>> = {
  String: "str",
  Boolean: "bool",
  Categorical: "cat",
  Binary: "binary",
};

export function shortType(dtype: string): string {
  const name = /^(\w+)/.exec(dtype)?.[1] ?? dtype;
  const number = /^(Int|UInt|Float)(\d+)$/.exec(name);
  if (number !== null) return `${{ Int: "i", UInt: "u", Float: "f" }[number[1] ?? ""] ?? ""}${number[2]}`;
  return SHORT_TYPES[name] ?? name.toLowerCase();
}

function showSchema(session: Session, result: TaskResult): void {
  const shown = result.schema.slice(0, SCHEMA_SHOWN_MAX);
  session.printTable(
    [
      { title: "COLUMN", minWidth: 10 },
      { title: "TYPE", minWidth: 10 },
    ],
    shown.map(({ name, dtype }) => [withoutControls(name), dtype]),
  );
  if (result.schema.length > shown.length)
    session.print(`and ${formatCount(result.schema.length - shown.length, "column")} more`);
}

async function showResults(session: Session, api: Api, job: Job, frameName: FrameName | undefined): Promise<void> {
  const page = await api.results(job.id, { limit: RESULTS_SHOWN_MAX });
  session.print("");
  printResults(session, page.items, frameName);
  const more = job.counts.succeeded - page.items.length;
  if (more > 0)
    session.print(session.paint("dim", `and ${more.toLocaleString("en-US")} more: pc job ${job.id} --results`));
}

/** A table of results, with the columns that these have something in. */
export function printResults(session: Session, results: readonly TaskResult[], frameName?: FrameName): void {
  const columns: (Column & { cell: (result: TaskResult) => string })[] = [
    { title: "FRAME", align: "right", cell: ({ frame }) => (frame === null ? "" : String(frame)) },
    {
      title: "QUERY",
      minWidth: 12,
      dropRank: 1,
      cell: ({ frame }) => (frame === null ? "" : (frameName?.(frame) ?? "")),
    },
    { title: "KEY", minWidth: 12, cell: ({ key }) => formatKey(key) },
    { title: "ROWS", align: "right", cell: ({ rows }) => rows.toLocaleString("en-US") },
    { title: "LOCATION", minWidth: 20, dropRank: 2, cell: ({ locations }) => formatLocations(locations) },
  ];
  const cells = columns.map(({ cell }) => results.map((result) => withoutControls(cell(result))));
  const shown = columns.map((_, index) => index).filter((index) => cells[index]?.some((text) => text !== ""));
  session.printTable(
    shown.map((index) => columns[index] as Column),
    results.map((_, row) => shown.map((index) => cells[index]?.[row] ?? "")),
  );
}

/** `day=2024-01-01, region=eu`. */
export function formatKey(key: Readonly<Record<string, string | null>> | null): string {
  return Object.entries(key ?? {})
    .map(([name, value]) => `${name}=${value ?? "null"}`)
    .join(", ");
}

function formatLocations(locations: readonly string[]): string {
  const [first = ""] = locations;
  return locations.length > 1 ? `${first} (and ${locations.length - 1} more)` : first;
}

/** What went wrong, on stderr: alike failures once, the user's own lines first. */
export async function showFailures(session: Session, api: Api, job: Job, frameName?: FrameName): Promise<void> {
  const groups = await api.failures(job.id);
  const { io } = session;
  for (const group of groups.slice(0, GROUPS_SHOWN_MAX))
    io.stderr.write(`\n${describeGroup(session, job, group, frameName)}\n`);
  if (groups.length > GROUPS_SHOWN_MAX)
    io.stderr.write(
      `\nand ${formatCount(groups.length - GROUPS_SHOWN_MAX, "other kind")} of failure: pc job ${job.id} --failures\n`,
    );
  if (groups.length === 0 && job.error !== null) io.stderr.write(`\n${describeError(session, job.error)}\n`);
}

function describeGroup(session: Session, job: Job, group: FailureGroup, frameName: FrameName | undefined): string {
  if (job.mode === "single") return describeError(session, group.error);
  const names = group.frames.map((frame) => frameName?.(frame) ?? `frame ${frame}`);
  const where =
    names.length > 0
      ? `: ${names.join(", ")}${group.count > names.length ? ", ..." : ""}`
      : ` (one of them: ${group.exampleTaskId})`;
  const title = session.paintError("bold", `${formatCount(group.count, "task")} failed${withoutControls(where)}`);
  return `${title}\n${describeError(session, group.error)}`;
}

/** The traceback, the user's lines first; under it `ColumnNotFoundError: ...`, unless the traceback ends with that itself. */
export function describeError({ paintError }: Session, error: NonNullable<Job["error"]>): string {
  const lines: string[] = [];
  const message = withoutControls(error.message).trimEnd();
  const traceback = withoutControls(error.traceback ?? "").trimEnd();
  if (traceback !== "") lines.push(traceback);
  if (!traceback.includes(message)) lines.push(`${paintError("red", error.type ?? error.code)}: ${message}`);
  if (error.hint) lines.push(`${paintError("cyan", "hint:")} ${withoutControls(error.hint)}`);
  return lines.join("\n");
}
