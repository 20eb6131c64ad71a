import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { usageError } from "./cli-error.ts";
import type { ManyOptions } from "./commands/spawn-many.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { SpecInput } from "./job-spec.ts";
import type { FrameName } from "./outcome.ts";
import { combine, type Parameter, parseParameter, type Row, readParamsFile } from "./param-grid.ts";
import { parseKeys } from "./partition-keys.ts";
import { sqlOrigin } from "./plan-bytes.ts";
import { pythonCommand } from "./python-frames.ts";
import { type Frame, openTargets } from "./queries.ts";
import type { Session } from "./session.ts";
import { parseTemplate, type SqlTemplate } from "./sql-template.ts";
import { encodeLines, type Frames, measureSubmission, type SubmissionSize, submissionLines } from "./submission.ts";
import { specOf } from "./submit-one.ts";
import { concludeSubmission, sendInterruptibly } from "./submitted.ts";
import { expandPatterns, readTarget, type Target } from "./targets.ts";

const QUERIES_SHOWN_MAX = 5;
/** Names of this many frames are kept, to show them in place of numbers. */
const NAMES_KEPT_MAX = 10_000;

export async function submitMany(session: Session, words: readonly string[], options: ManyOptions): Promise<ExitCode> {
  const { io } = session;
  const keys = parseKeys(options.partitionBy);
  const grid = readGrid(io.cwd, options);
  if (words.length === 0 && grid === undefined)
    throw usageError("there is nothing to run", "name files, or give --sql and --param");
  const targets: Target[] = [];
  for (const word of expandPatterns(io.cwd, words)) targets.push(await readTarget(io, word));
  const queries = await openTargets(io, pythonCommand(io, options.python), targets, keys, true);
  const origins = grid === undefined ? queries.origins : [...queries.origins, sqlOrigin("--sql")];
  const frames: Frames = { [Symbol.iterator]: () => concat(queries.frames, grid ?? []) };
  const size = measureSubmission(frames);
  const spec = await specOf(session, options, { keys: queries.keys, origins });
  return options.dryRun ? showDryRun(session, spec, frames, size) : send(session, spec, frames, size, options);
}

function* concat(first: Frames, second: Frames): Generator<Frame> {
  yield* first;
  yield* second;
}

/** The frames of the SQL template; they are made anew each time they are gone through. */
function readGrid(cwd: string, options: ManyOptions): Frames | undefined {
  const parameters = (options.param ?? []).map(parseParameter);
  const rows =
    options.paramsFile === undefined ? [new Map<string, string>()] : readParamsFile(resolve(cwd, options.paramsFile));
  if (options.sql === undefined) {
    if (parameters.length === 0 && options.paramsFile === undefined) return undefined;
    throw usageError("--param and --params-file are for --sql");
  }
  const template = parseTemplate(readTemplate(cwd, options.sql));
  checkUsed(template, parameters, rows);
  return { [Symbol.iterator]: () => renderFrames(template, rows, parameters) };
}

function readTemplate(cwd: string, sql: string): string {
  if (!sql.startsWith("@")) return sql;
  try {
    return readFileSync(resolve(cwd, sql.slice(1)), "utf8");
  } catch (error) {
    throw usageError(`--sql ${sql}: ${(error as Error).message}`);
  }
}

/** A parameter that appears nowhere would multiply the job for nothing. A column of a file may well be left unused. */
function checkUsed(template: SqlTemplate, parameters: readonly Parameter[], rows: readonly Row[]): void {
  const unused = parameters.find(({ name }) => !template.names.has(name));
  if (unused !== undefined)
    throw usageError(`--param ${unused.name} is used nowhere in the SQL template`, `put {${unused.name}} into it`);
  const given = new Set([...parameters.map(({ name }) => name), ...(rows[0]?.keys() ?? [])]);
  const missing = [...template.names].find((name) => !given.has(name));
  if (missing !== undefined)
    throw usageError(`the SQL template has {${missing}}, which no parameter gives`, `add --param ${missing}=...`);
}

function* renderFrames(
  template: SqlTemplate,
  rows: readonly Row[],
  parameters: readonly Parameter[],
): Generator<Frame> {
  for (const row of combine(rows, parameters)) {
    const used = [...row].filter(([name]) => template.names.has(name));
    yield {
      name: used.map(([name, value]) => `${name}=${value}`).join(", "),
      plan: { kind: "sql", text: template.render(row) },
    };
  }
}

async function send(
  session: Session,
  spec: SpecInput,
  frames: Frames,
  size: SubmissionSize,
  options: ManyOptions,
): Promise<ExitCode> {
  const api = await session.api();
  const startedAt = Date.now();
  const idempotencyKey = options.idempotencyKey ?? randomUUID();
  const makeLines = () => encodeLines(submissionLines(spec, frames));
  const job = await sendInterruptibly(session, (signal) => api.submitLines(makeLines, { idempotencyKey, signal }));
  session.note(session.paintError("dim", inWords(size)));
  return concludeSubmission(session, api, job, options, { startedAt, frameName: nameFrames(frames) });
}

function nameFrames(frames: Frames): FrameName {
  let names: string[] | undefined;
  return (frame) => {
    if (names === undefined) {
      names = [];
      for (const { name } of frames) if (names.push(name) >= NAMES_KEPT_MAX) break;
    }
    return names[frame];
  };
}

function inWords({ frames, plans, bytes }: SubmissionSize): string {
  return `${frames.toLocaleString("en-US")} ${frames === 1 ? "query" : "queries"}, ${formatCount(plans, "distinct plan")}, ${formatBytes(bytes)}`;
}

/** With --json: the lines of the request. Values of environment variables are secrets, and left out. */
function showDryRun(session: Session, spec: SpecInput, frames: Frames, size: SubmissionSize): ExitCode {
  const shown = hideSecrets(spec);
  if (session.json) {
    for (const line of submissionLines(shown, frames)) session.io.stdout.write(line);
    return EXIT.ok;
  }
  session.print(inWords(size));
  session.print(JSON.stringify(shown, null, 2));
  let count = 0;
  for (const { name, plan } of frames) {
    session.print(
      plan.kind === "sql"
        ? `\n-- ${name}\n${plan.text}`
        : `\n-- ${name}: a plan of ${formatBytes(Buffer.byteLength(plan.data, "base64"))}`,
    );
    count += 1;
    if (count === QUERIES_SHOWN_MAX) break;
  }
  if (size.frames > count)
    session.print(`\nand ${(size.frames - count).toLocaleString("en-US")} more; --json shows all`);
  return EXIT.ok;
}

function hideSecrets(spec: SpecInput): SpecInput {
  const { context } = spec;
  if (context === null || context?.env === undefined) return spec;
  return {
    ...spec,
    context: { ...context, env: Object.fromEntries(Object.keys(context.env).map((name) => [name, "***"])) },
  };
}
