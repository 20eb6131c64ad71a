import {
  type ErrorCode,
  type ErrorInfo,
  type JobSpec,
  NodeLogLine,
  type Outcome,
  POLARS_RELEASES,
  type PolarsRelease,
  type SubmitLine,
  type TaskRef,
} from "@frazil/contracts";
import type { z } from "zod";

const NEWEST = POLARS_RELEASES.at(-1) as PolarsRelease;
export const SHAPE = { cpus: 2, memoryGiB: 1 };

/** Bytes that begin as a plan of the newest release does; the control plane looks no further. */
export function planBytesOf(content: string): Buffer {
  return Buffer.concat([
    Buffer.from("DSL_VERSION"),
    Buffer.from([24, 0, 0, 0]),
    Buffer.from(NEWEST.schemaHash),
    Buffer.from(content),
  ]);
}

export function planOf(content: string) {
  return { kind: "dsl" as const, data: planBytesOf(content).toString("base64") };
}

export type SpecInput = z.input<typeof JobSpec>;

export function specOf(over: Partial<SpecInput> = {}): SpecInput {
  return { client: { polars: NEWEST.version, python: "3.11" }, context: SHAPE, ...over };
}

/** One query, as JSON is submitted. */
export function oneQuery(over: Partial<SpecInput> = {}, content = "a plan") {
  return { spec: specOf(over), plan: planOf(content) };
}

/** Lines of a streamed submission. */
export function manyFrames(plans: readonly string[], frames: readonly number[], over: Partial<SpecInput> = {}): string {
  const lines: unknown[] = [
    { line: "header", spec: specOf(over) },
    ...plans.map((content, number) => ({ line: "plan", number, plan: planOf(content) })),
    { line: "frames", plans: [...frames] } satisfies SubmitLine,
  ];
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

export function succeeded(rows = 1, over: Partial<Extract<Outcome, { kind: "succeeded" }>["result"]> = {}): Outcome {
  const result = { locations: [`/results/${rows}.arrow`], schema: [], rows, bytes: 8, warnings: [], ...over };
  return { kind: "succeeded", result, head: Buffer.from(`head of ${rows}`).toString("base64") };
}

export function failed(code: ErrorCode, message: string, retryable = true, over: Partial<ErrorInfo> = {}): Outcome {
  return { kind: "failed", error: { code, message, ...over }, retryable };
}

export const released: Outcome = { kind: "released" };

/** Keys `day=0` ... of a split. */
export function splitInto(count: number, splitState: string | null = "how it was split"): Outcome {
  const keys = Array.from({ length: count }, (_, index) => ({
    values: { day: String(index) },
    path: `day=${index}`,
    token: `token ${index}`,
  }));
  return { kind: "split", keys, splitState };
}

export function logLine(task: TaskRef, seq: number, text: string): NodeLogLine {
  return NodeLogLine.parse({
    taskId: task.taskId,
    attempt: task.attempt,
    seq,
    at: new Date().toISOString(),
    stream: "stdout",
    text,
  });
}
