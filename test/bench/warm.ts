import { baselinePython } from "./baselines.ts";
import { type Benchmark, type Options, say } from "./benchmark.ts";
import { type NoOpQueue, onPostgres, onRedis } from "./bullmq.ts";
import { withInstallation } from "./installation.ts";
import { DEV_PYTHON } from "./paths.ts";
import { startCpuMeter } from "./processes.ts";
import { profileNote } from "./profile.ts";
import type { Finding, Measurement } from "./report.ts";
import { percentile } from "./statistics.ts";
import { withSubject } from "./subject.ts";

const CALLS = 500;
const WARMUP = 100;
const GOAL_P50_MS = 10;
const GOAL_P99_MS = 40;

export const warm: Benchmark = { title: "A warm trivial query, from submission to the result in hand", run: runWarm };

async function runWarm(options: Options): Promise<Finding> {
  const { times, notes } = await runFrazil(options);
  const p50 = (found: readonly number[]) => percentile(found, 0.5);
  const baselines = options.alone ? {} : await runBaselines();
  return {
    measurements: [
      measured("Frazil, Python client", times),
      ...Object.entries(baselines).map(([name, found]) => measured(name, found)),
    ],
    ratios: [
      { name: "Frazil p50 in ms", value: p50(times), goal: `at most ${GOAL_P50_MS}` },
      { name: "Frazil p99 in ms", value: percentile(times, 0.99), goal: `at most ${GOAL_P99_MS}` },
      ...Object.entries(baselines).map(([name, found]) => ({
        name: `Frazil p50 / p50 of ${name}`,
        value: p50(times) / p50(found),
      })),
    ],
    notes,
  };
}

const CALLING = { count: CALLS, warmup: WARMUP };

async function runFrazil({ profile }: Options): Promise<{ times: number[]; notes: string[] }> {
  say("Frazil ...");
  return withInstallation((installation) =>
    withSubject(DEV_PYTHON, "frazil_subject", installation.environment, async (subject) => {
      await subject.ask("warm", { count: 1, warmup: 0 });
      const meter = startCpuMeter(installation.pid, { client: subject.pid });
      const times = await subject.ask<number[]>("warm", CALLING);
      return { times, notes: profile ? [profileNote(meter.read(), CALLS + WARMUP, "queries")] : [] };
    }),
  );
}

async function runBaselines(): Promise<Record<string, number[]>> {
  const calls = (python: string, script: string) =>
    withSubject(python, script, {}, (subject) => subject.ask<number[]>("warm", CALLING));
  say("local Polars, Ray, BullMQ ...");
  return {
    "local Polars, collect()": await calls(DEV_PYTHON, "polars_subject"),
    "Ray, ray.get of a task": await calls(await baselinePython(), "ray_subject"),
    "BullMQ no-op, Redis": await roundTrips(await onRedis()),
    "BullMQ no-op, Postgres": await roundTrips(await onPostgres()),
  };
}

async function roundTrips(queue: NoOpQueue): Promise<number[]> {
  try {
    return await queue.roundTrips(CALLS, WARMUP);
  } finally {
    await queue.close();
  }
}

function measured(subject: string, times: readonly number[]): Measurement {
  return {
    subject,
    figures: {
      calls: times.length,
      "p50 ms": percentile(times, 0.5),
      "p90 ms": percentile(times, 0.9),
      "p99 ms": percentile(times, 0.99),
    },
  };
}
