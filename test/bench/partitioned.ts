import { existsSync } from "node:fs";
import { rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Benchmark, type Options, say } from "./benchmark.ts";
import { serveFile } from "./counting-server.ts";
import { withInstallation } from "./installation.ts";
import { BENCH_DIR, DEV_PYTHON } from "./paths.ts";
import { startCpuMeter } from "./processes.ts";
import { profileNote } from "./profile.ts";
import type { Finding } from "./report.ts";
import { type Subject, withSubject } from "./subject.ts";

const DAYS = 365;
/** About 1 GB: 64-bit numbers that don't compress, in four columns. */
const ROWS = 41_000_000;
const SOURCE = join(BENCH_DIR, "days.parquet");
const OUTPUT = join(BENCH_DIR, "days");
/** The loop runs for one day in so many; its time is multiplied. */
const LOOP_EVERY = 10;
const GOAL_TIMES_FASTER = 3;
const ROUNDS = 2;

export const partitioned: Benchmark = { title: `A 1 GB file in ${DAYS} partitions`, run: runPartitioned };

async function runPartitioned(options: Options): Promise<Finding> {
  return withSubject(DEV_PYTHON, "polars_subject", {}, async (polars) => {
    const sourceBytes = await makeSource(polars);
    try {
      const frazil = await runFrazil(polars, options);
      const loop = options.alone ? undefined : await runLoop(polars);
      const readShare = frazil.bytesRead / sourceBytes;
      const timesFaster = loop === undefined ? undefined : loop / frazil.seconds;
      return {
        measurements: [
          { subject: "Frazil, partition_by", figures: { seconds: frazil.seconds, "input in MB": sourceBytes / 1e6 } },
          ...(loop === undefined
            ? []
            : [{ subject: `local Polars, ${DAYS} filtered sink_parquet`, figures: { seconds: loop } }]),
        ],
        ratios: [
          { name: "bytes read / input size", value: readShare, goal: "about 1" },
          ...(timesFaster === undefined
            ? []
            : [{ name: "times faster than the loop", value: timesFaster, goal: `at least ${GOAL_TIMES_FASTER}` }]),
        ],
        notes: [
          `The loop ran for every ${LOOP_EVERY}th day; its time is multiplied by ${DAYS} over their number. Bytes are counted in a run of its own over HTTP, the times are of the local file. What was written was compared with the input by day.`,
          ...frazil.notes,
        ],
      };
    } finally {
      await rm(OUTPUT, { recursive: true, force: true });
    }
  });
}

async function makeSource(polars: Subject): Promise<number> {
  if (!existsSync(SOURCE)) {
    say("making the input ...");
    await polars.ask("make_days", { path: `${SOURCE}.new`, rows: ROWS });
    await rename(`${SOURCE}.new`, SOURCE);
  }
  return (await stat(SOURCE)).size;
}

async function runFrazil(polars: Subject, { profile }: Options) {
  say("Frazil ...");
  return withInstallation((installation) =>
    withSubject(DEV_PYTHON, "frazil_subject", installation.environment, async (subject) => {
      const run = (source: string) => subject.ask<number>("partitioned", { source, destination: OUTPUT });
      const server = await serveFile(SOURCE);
      await run(server.url);
      const bytesRead = server.bytesSent();
      server.close();
      await polars.ask("check_days", { source: SOURCE, destination: OUTPUT });
      const meter = startCpuMeter(installation.pid, { client: subject.pid });
      const times: number[] = [];
      for (let round = 0; round < ROUNDS; round++) times.push(await run(SOURCE));
      const notes = profile ? [profileNote(meter.read(), DAYS * ROUNDS, "partitions")] : [];
      await polars.ask("check_days", { source: SOURCE, destination: OUTPUT });
      return { seconds: Math.min(...times), bytesRead, notes };
    }),
  );
}

async function runLoop(polars: Subject): Promise<number> {
  say("the loop ...");
  const days = Array.from({ length: DAYS }, (_, day) => day).filter((day) => day % LOOP_EVERY === 0);
  const destination = join(OUTPUT, "loop");
  const seconds = await polars.ask<number>("partitioned_in_a_loop", { source: SOURCE, destination, days });
  return (seconds * DAYS) / days.length;
}
