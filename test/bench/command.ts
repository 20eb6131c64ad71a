import { execFileSync } from "node:child_process";
import { join } from "node:path";
import type { Benchmark } from "./benchmark.ts";
import { ROOT } from "./paths.ts";
import type { Finding } from "./report.ts";
import { percentile } from "./statistics.ts";

const CALLS = 20;
const GOAL_MS = 200;
const PROGRAM = join(ROOT, "dist/pc.mjs");
const NODE = "node, an empty program";
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  "pc --version": [PROGRAM, "--version"],
  "pc jobs --help": [PROGRAM, "jobs", "--help"],
  [NODE]: ["--eval", ""],
};

export const command: Benchmark = { title: "A command of `pc` that asks nobody", run: runCommand };

async function runCommand(): Promise<Finding> {
  const times = Object.entries(COMMANDS).map(([name, args]) => [name, timeCalls(args)] as const);
  const p50 = Object.fromEntries(times.map(([name, found]) => [name, percentile(found, 0.5)]));
  const [version, node] = [p50["pc --version"] ?? Number.NaN, p50[NODE] ?? Number.NaN];
  return {
    measurements: times.map(([subject, found]) => ({
      subject,
      figures: { calls: CALLS, "p50 ms": percentile(found, 0.5), "best ms": Math.min(...found) },
    })),
    ratios: [
      { name: "pc --version p50 in ms", value: version, goal: `under ${GOAL_MS}` },
      { name: `pc --version p50 / p50 of ${NODE}`, value: version / node },
    ],
    notes: [],
  };
}

/** Milliseconds of each call, after one that doesn't count. */
function timeCalls(args: readonly string[]): number[] {
  return Array.from({ length: CALLS + 1 }, () => {
    const startedAt = performance.now();
    execFileSync(process.execPath, args);
    return performance.now() - startedAt;
  }).slice(1);
}
