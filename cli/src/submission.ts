import { createHash } from "node:crypto";
import { PLAN_BYTES_MAX, type Plan, SQL_CHARS_MAX, SUBMISSION_BYTES_MAX, TASKS_PER_JOB_MAX } from "@frazil/contracts";
import { usageError } from "./cli-error.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { SpecInput } from "./job-spec.ts";
import type { Frame } from "./queries.ts";

/** Frames in order; can be gone through more than once, and need not all be in memory. */
export type Frames = Iterable<Frame>;

export interface SubmissionSize {
  readonly frames: number;
  /** Distinct ones. */
  readonly plans: number;
  readonly bytes: number;
}

const FRAMES_PER_LINE = 1_000;
const CHUNK_CHARS = 64 * 1024;

/** The lines of a streamed submission: each distinct plan once, and the frames that use it. */
export function* submissionLines(spec: SpecInput, frames: Frames): Generator<string> {
  const numbers = new Map<string, number>();
  let pending: number[] = [];
  yield toLine({ line: "header", spec });
  for (const { plan } of frames) {
    const key = planKey(plan);
    let number = numbers.get(key);
    if (number === undefined) {
      number = numbers.size;
      numbers.set(key, number);
      yield toLine({ line: "plan", number, plan });
    }
    pending.push(number);
    if (pending.length < FRAMES_PER_LINE) continue;
    yield toLine({ line: "frames", plans: pending });
    pending = [];
  }
  if (pending.length > 0) yield toLine({ line: "frames", plans: pending });
}

/** Counts what would be sent, and refuses what is too much, before anything is sent. */
export function measureSubmission(frames: Frames, tasksMax = TASKS_PER_JOB_MAX): SubmissionSize {
  const seen = new Set<string>();
  let count = 0;
  let bytes = 0;
  for (const { name, plan } of frames) {
    count += 1;
    if (count > tasksMax)
      throw usageError(`a job may have ${formatCount(tasksMax, "task")}`, "send it as several jobs");
    const key = planKey(plan);
    if (seen.has(key)) continue;
    seen.add(key);
    bytes += checkPlan(name, plan);
    if (bytes > SUBMISSION_BYTES_MAX) {
      throw usageError(
        `the plans have more than ${formatBytes(SUBMISSION_BYTES_MAX)} together`,
        "plans that carry in-memory frames are large: write the data to storage and scan it from there",
      );
    }
  }
  if (count === 0) throw usageError("there is no query to run");
  return { frames: count, plans: seen.size, bytes };
}

function checkPlan(name: string, plan: Plan): number {
  if (plan.kind === "sql") {
    if (plan.text.length > SQL_CHARS_MAX)
      throw usageError(`${name}: SQL text may have ${formatCount(SQL_CHARS_MAX, "character")}`);
    return Buffer.byteLength(plan.text);
  }
  const bytes = Buffer.byteLength(plan.data, "base64");
  if (bytes > PLAN_BYTES_MAX)
    throw usageError(`${name}: a plan may have ${formatBytes(PLAN_BYTES_MAX)}, this one has ${formatBytes(bytes)}`);
  return bytes;
}

/** Lines as bytes, in chunks of some size. */
export async function* encodeLines(lines: Iterable<string>): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder();
  let chunk = "";
  for (const line of lines) {
    chunk += line;
    if (chunk.length < CHUNK_CHARS) continue;
    yield encoder.encode(chunk);
    chunk = "";
  }
  if (chunk !== "") yield encoder.encode(chunk);
}

function planKey(plan: Plan): string {
  const text = plan.kind === "sql" ? plan.text : plan.data;
  return createHash("sha256").update(plan.kind).update(text).digest().toString("latin1");
}

function toLine(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}
