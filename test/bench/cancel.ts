import { baselinePython } from "./baselines.ts";
import { type Benchmark, type Options, say } from "./benchmark.ts";
import { withInstallation } from "./installation.ts";
import { DEV_PYTHON } from "./paths.ts";
import type { Finding, Measurement } from "./report.ts";
import { percentile } from "./statistics.ts";
import { withSubject } from "./subject.ts";

const CALLS = { count: 30 };
const GOAL_MS = 1_000;

export const cancel: Benchmark = { title: "Cancelling a query that runs, until its process has ended", run: runCancel };

async function runCancel({ alone }: Options): Promise<Finding> {
  say("Frazil ...");
  const frazil = await withInstallation(({ environment }) =>
    withSubject(DEV_PYTHON, "frazil_subject", environment, (subject) => subject.ask<number[]>("cancel", CALLS)),
  );
  const slowest = { name: "Frazil, slowest in ms", value: Math.max(...frazil), goal: `under ${GOAL_MS}` };
  const ours = measured("Frazil, cancel()", frazil);
  if (alone) return { measurements: [ours], ratios: [slowest], notes: [] };
  say("Ray ...");
  const ray = await withSubject(await baselinePython(), "ray_subject", {}, (subject) =>
    subject.ask<number[]>("cancel", CALLS),
  );
  const ratio = percentile(frazil, 0.5) / percentile(ray, 0.5);
  return {
    measurements: [ours, measured("Ray, ray.cancel(force=True)", ray)],
    ratios: [slowest, { name: "Frazil p50 / p50 of Ray", value: ratio }],
    notes: [],
  };
}

function measured(subject: string, times: readonly number[]): Measurement {
  return {
    subject,
    figures: { calls: times.length, "p50 ms": percentile(times, 0.5), "slowest ms": Math.max(...times) },
  };
}
