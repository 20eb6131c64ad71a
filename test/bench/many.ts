import { baselinePython } from "./baselines.ts";
import { type Benchmark, type Options, say } from "./benchmark.ts";
import { type NoOpQueue, onPostgres, onRedis } from "./bullmq.ts";
import { withInstallation } from "./installation.ts";
import { DEV_PYTHON } from "./paths.ts";
import { peakMemoryMiB, resetPeakMemory, startCpuMeter } from "./processes.ts";
import { profileNote } from "./profile.ts";
import type { Finding, Measurement } from "./report.ts";
import { type Subject, withSubject } from "./subject.ts";

const FRAMES = 10_000;
const WARMUP_FRAMES = 1_000;
/** Of each subject, after its warm-up; the best counts, for all alike. */
const ROUNDS = 3;
const CORES = 2;
const GOAL_TASKS_PER_S = 1_500;
const GOAL_MIB = 400;

export const many: Benchmark = { title: `${FRAMES.toLocaleString("en-US")} trivial frames at once`, run: runMany };

interface Round {
  readonly submit?: number;
  /** Seconds until all were done. */
  readonly finish: number;
  /** Seconds until all outputs were in hand and checked. */
  readonly check?: number;
}

async function runMany(options: Options): Promise<Finding> {
  const frazil = await runFrazil(options);
  const baselines = options.alone ? {} : await runBaselines();
  const frazilRate = rate(frazil.rounds);
  return {
    measurements: [
      measured("Frazil, spawn_many, one node of 2 slots", frazil.rounds),
      ...Object.entries(baselines).map(([name, found]) => measured(name, found)),
    ],
    ratios: [
      { name: "Frazil tasks/s", value: frazilRate, goal: `at least ${GOAL_TASKS_PER_S}` },
      { name: "peak memory of the control plane in MiB", value: frazil.peakMiB, goal: `under ${GOAL_MIB}` },
      ...Object.entries(baselines).map(([name, found]) => ({
        name: `Frazil tasks/s over ${name}`,
        value: frazilRate / rate(found),
        ...(TO_BEAT.test(name) ? { goal: "above 1" } : {}),
      })),
    ],
    notes: frazil.notes,
  };
}

const TO_BEAT = /^(Ray|Dask)/;

async function runBaselines(): Promise<Record<string, Round[]>> {
  const asked = (python: string, script: string, command: string, args: Record<string, unknown> = {}) =>
    withSubject(python, script, {}, (subject) => rounds(subject, command, args));
  say("plain Polars, Ray, Dask, BullMQ ...");
  const baseline = await baselinePython();
  return {
    "plain Polars, a loop of collect()": await asked(DEV_PYTHON, "polars_subject", "many_in_a_loop"),
    "plain Polars, plans in, 2 processes": await asked(DEV_PYTHON, "polars_subject", "many_in_processes", {
      processes: CORES,
    }),
    "Ray, one task per frame, 2 cores": await asked(baseline, "ray_subject", "many"),
    "Dask distributed, 2 workers": await asked(baseline, "dask_subject", "many"),
    "BullMQ no-op, 50 workers, Redis": await drains(await onRedis()),
    "BullMQ no-op, 50 workers, Postgres": await drains(await onPostgres()),
  };
}

async function runFrazil({ profile }: Options) {
  say("Frazil ...");
  const notes: string[] = [];
  return withInstallation((installation) =>
    withSubject(DEV_PYTHON, "frazil_subject", installation.environment, async (subject) => {
      const controlPlane = installation.controlPlanePid();
      await subject.ask("many", { count: WARMUP_FRAMES });
      resetPeakMemory(controlPlane);
      const done: Round[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        const meter = startCpuMeter(installation.pid, { client: subject.pid });
        const found = await subject.ask<Round>("many", { count: FRAMES });
        say(`round ${round + 1}: ${JSON.stringify(found)}`);
        if (profile) notes.push(profileNote(meter.read(), FRAMES, "tasks, with the outputs read by the client"));
        done.push(found);
      }
      return { rounds: done, peakMiB: peakMemoryMiB(controlPlane), notes };
    }),
  );
}

async function rounds(subject: Subject, command: string, args: Record<string, unknown> = {}): Promise<Round[]> {
  await subject.ask(command, { ...args, count: WARMUP_FRAMES });
  const done: Round[] = [];
  for (let round = 0; round < ROUNDS; round++) done.push(await subject.ask(command, { ...args, count: FRAMES }));
  return done;
}

async function drains(queue: NoOpQueue): Promise<Round[]> {
  try {
    await queue.drain(WARMUP_FRAMES);
    const done: Round[] = [];
    for (let round = 0; round < ROUNDS; round++) done.push({ finish: await queue.drain(FRAMES) });
    return done;
  } finally {
    await queue.close();
  }
}

function rate(found: readonly Round[]): number {
  return FRAMES / Math.min(...found.map((round) => round.finish));
}

function measured(subject: string, found: readonly Round[]): Measurement {
  const best = found.reduce((one, other) => (other.finish < one.finish ? other : one));
  return {
    subject,
    figures: {
      "tasks/s, best": FRAMES / best.finish,
      "tasks/s, worst": FRAMES / Math.max(...found.map((round) => round.finish)),
      ...(best.submit === undefined ? {} : { "submitted after s": best.submit }),
      "done after s": best.finish,
      ...(best.check === undefined ? {} : { "outputs checked after s": best.check }),
    },
  };
}
