import type { Outcome, TaskKind, TaskRef } from "@frazil/contracts";
import { planBytesOf } from "../harness/submissions.ts";

/** How a run ends: well, with the user's error, with an engine that dies once, or with storage that never answers. */
export type EndOf = "ok" | "user" | "flaky" | "storage";

/** What an engine will find in a plan: it makes the plan's runs end as the seed wants. */
export interface Script {
  /** Makes plans distinct. */
  readonly nonce: number;
  readonly split: EndOf;
  readonly keys: number;
  /** Of the query, or of its keys by their number (round and round). */
  readonly ends: readonly EndOf[];
  /** What the split hands on is too large for a message. */
  readonly isBig: boolean;
}

export function writeScript(script: Script): { kind: "dsl"; data: string } {
  return { kind: "dsl", data: planBytesOf(JSON.stringify(script)).toString("base64") };
}

const HEADER_BYTES = planBytesOf("").length;

export function readScript(plan: string): Script {
  return JSON.parse(Buffer.from(plan, "base64").subarray(HEADER_BYTES).toString("utf8"));
}

export function plannedEnd(script: Script, kind: TaskKind, keyToken: string | null): EndOf {
  if (kind === "split") return script.split;
  const number = keyToken === null ? 0 : Number(keyToken);
  return script.ends[number % script.ends.length] as EndOf;
}

export function endOf(script: Script, kind: TaskKind, task: TaskRef): EndOf {
  const planned = plannedEnd(script, kind, task.keyToken);
  return planned === "flaky" && task.attempt > 1 ? "ok" : planned;
}

const BIG_CHARS = 70_000;

export function keysOf(script: Script): Outcome {
  const keys = Array.from({ length: script.keys }, (_, index) => ({
    values: { day: String(index) },
    path: `day=${index}`,
    token: String(index),
  }));
  return { kind: "split", keys, splitState: script.isBig ? "x".repeat(BIG_CHARS) : null };
}
