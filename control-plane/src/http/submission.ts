import { createHash } from "node:crypto";
import {
  type JobSpec,
  PLAN_BYTES_MAX,
  Problem,
  SQL_CHARS_MAX,
  SUBMISSION_BYTES_MAX,
  SubmitJob,
  SubmitLine,
  TASKS_PER_JOB_MAX,
} from "@frazil/contracts";
import type { z } from "zod";
import type { Deps, JobRow, NewPlan } from "../flow/deps.ts";
import { encodeSpec, planBytes, type Submitter, sealPlan, submitMany, submitOne } from "../flow/submit.ts";
import { type Body, parseJson, piecesOf, readBytes, textOf } from "./body.ts";

type SubmissionDeps = Parameters<typeof submitOne>[0] & Pick<Deps, "settings">;

/** Plans that are stored together. */
const PLANS_PER_WRITE = 200;
const WRITE_BYTES = 16 * 1024 * 1024;
/** One line of a streamed submission: the largest plan in base64, and what surrounds it. */
const LINE_BYTES_MAX = 90 * 1024 * 1024;
const JSON_BODY_BYTES_MAX = 96 * 1024 * 1024;
const SMALLER_PLAN = "scan large data from storage instead of sending it in the plan";

/** `application/json`: one query. */
export async function readOne(deps: SubmissionDeps, submitter: Submitter, body: Body): Promise<JobRow> {
  const limits = { bytesMax: JSON_BODY_BYTES_MAX, idleMs: deps.settings.bodyIdleMs, advice: SMALLER_PLAN };
  const bytes = await readBytes(body, limits);
  const value = parseJson(textOf(bytes, "The body"), "The body");
  refuseLargePlan(value, "The plan");
  const { spec, plan } = parse(SubmitJob, value, "The body");
  return submitOne(deps, submitter, spec, plan, bytes);
}

/**
 * `application/x-ndjson`: many frames. Plans are stored as they come, so that memory holds a few plans and one id per frame, however long the stream is;
 * the job is written when the stream is complete, some tasks at a time.
 */
export async function readMany(deps: SubmissionDeps, submitter: Submitter, body: Body): Promise<JobRow> {
  const digest = createHash("sha256");
  const planIds = new Map<number, string>();
  const frames: number[] = [];
  let spec: JobSpec | undefined;
  let waiting: NumberedPlan[] = [];
  let waitingBytes = 0;
  let plans = 0;
  let stored = Promise.resolve();
  // Those that came are written while the next ones come, and no more than one write's worth of them waits.
  const store = async () => {
    await stored;
    stored = storePlans(deps, submitter.workspace.id, waiting, planIds);
    waiting = [];
    waitingBytes = 0;
    // Whoever comes next hears of it; if nobody does, the submission has failed already.
    stored.catch(() => undefined);
  };
  let at = 0;
  for await (const text of readLines(body, digest, deps.settings.bodyIdleMs)) {
    at += 1;
    const value = parseJson(text, `Line ${at}`);
    refuseLargePlan(value, `The plan in line ${at}`);
    const line = parse(SubmitLine, value, `Line ${at}`);
    if (line.line === "header") {
      if (spec !== undefined)
        throw new Problem("invalid_request", `Line ${at} is a second header; there is one, and it comes first.`);
      // Before the plans come: it is held until the last one is there.
      encodeSpec(line.spec);
      spec = line.spec;
      continue;
    }
    if (spec === undefined) throw new Problem("invalid_request", "The first line must be the header.");
    if (line.line === "frames") {
      for (const number of line.plans) frames.push(number);
      if (frames.length > TASKS_PER_JOB_MAX) throw tooManyTasks();
      continue;
    }
    const plan = sealPlan(deps, submitter.workspace.id, line.plan.kind, planBytes(line.plan, spec));
    plans += 1;
    if (plans > TASKS_PER_JOB_MAX) throw tooManyTasks();
    waiting.push({ number: line.number, plan });
    waitingBytes += plan.sizeBytes;
    if (waiting.length >= PLANS_PER_WRITE || waitingBytes >= WRITE_BYTES) await store();
  }
  if (waiting.length > 0) await store();
  await stored;
  if (spec === undefined)
    throw new Problem("invalid_request", "The stream is empty; its first line must be the header.");
  for (const number of frames) planOf(planIds, number);
  const slice = (from: number, to: number) => frames.slice(from, to).map((number) => planOf(planIds, number));
  return submitMany(deps, submitter, spec, { length: frames.length, slice }, digest.digest());
}

interface NumberedPlan {
  readonly number: number;
  readonly plan: NewPlan;
}

/** Stores plans, each content once, and notes their ids by number. */
async function storePlans(
  deps: SubmissionDeps,
  workspaceId: string,
  numbered: readonly NumberedPlan[],
  planIds: Map<number, string>,
): Promise<void> {
  const byHash = new Map(numbered.map(({ plan }) => [plan.hash.toString("base64"), plan]));
  const ids = await deps.db.plans.storePlans(deps.pool, workspaceId, [...byHash.values()]);
  const idOf = new Map([...byHash.keys()].map((hash, index) => [hash, ids[index] as string]));
  for (const { number, plan } of numbered) planIds.set(number, idOf.get(plan.hash.toString("base64")) as string);
}

function tooManyTasks(): Problem {
  return new Problem(
    "limit_exceeded",
    `A job may have ${TASKS_PER_JOB_MAX} tasks; send this submission as several jobs.`,
  );
}

/** Before the schema looks at it, whose word for it would be a number of characters. */
function refuseLargePlan(value: unknown, what: string): void {
  const { data, text } = ((value as { plan?: unknown } | null)?.plan ?? {}) as { data?: unknown; text?: unknown };
  if (typeof data === "string" && data.length > Math.ceil(PLAN_BYTES_MAX / 3) * 4)
    throw new Problem("too_large", `${what} has more than ${PLAN_BYTES_MAX} bytes; ${SMALLER_PLAN}.`);
  if (typeof text === "string" && text.length > SQL_CHARS_MAX)
    throw new Problem("too_large", `${what} has more than ${SQL_CHARS_MAX} characters of SQL; send a shorter one.`);
}

function planOf(planIds: ReadonlyMap<number, string>, number: number): string {
  const id = planIds.get(number);
  if (id === undefined) throw new Problem("invalid_request", `A frame names plan ${number}, which no line defines.`);
  return id;
}

/** Lines of a body, which comes in pieces that don't respect them; everything is added to the digest. */
export async function* readLines(
  body: Body,
  digest: ReturnType<typeof createHash>,
  idleMs: number,
): AsyncGenerator<string> {
  let line = 0;
  const decode = (bytes: Buffer) => textOf(bytes, `Line ${++line}`);
  let rest: Buffer[] = [];
  let restBytes = 0;
  let total = 0;
  for await (const chunk of piecesOf(body, idleMs)) {
    digest.update(chunk);
    total += chunk.length;
    if (total > SUBMISSION_BYTES_MAX)
      throw new Problem("too_large", `A submission may have ${SUBMISSION_BYTES_MAX} bytes; send it as several jobs.`);
    let from = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, from)) {
      yield decode(Buffer.concat([...rest, chunk.subarray(from, end)]));
      rest = [];
      restBytes = 0;
      from = end + 1;
    }
    rest.push(Buffer.from(chunk.subarray(from)));
    restBytes += chunk.length - from;
    if (restBytes > LINE_BYTES_MAX)
      throw new Problem("too_large", `Line ${line + 1} has more than ${LINE_BYTES_MAX} bytes; ${SMALLER_PLAN}.`);
  }
  const last = decode(Buffer.concat(rest));
  if (last.trim() !== "") yield last;
}

export function parse<S extends z.ZodType>(schema: S, value: unknown, what: string): z.output<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues
    .slice(0, 20)
    .map((issue) => ({ path: issue.path.join("."), message: issue.message }));
  const first = issues[0];
  throw new Problem(
    "invalid_request",
    `${what} does not fit: ${first?.path === "" ? "" : `${first?.path}: `}${first?.message}`,
    { issues },
  );
}
