import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Benchmark, say } from "./benchmark.ts";
import { type Installation, startInstallation } from "./installation.ts";
import { BENCH_DIR, DEV_PYTHON } from "./paths.ts";
import type { Finding, Measurement } from "./report.ts";
import { withSubject } from "./subject.ts";

const ROUNDS = 3;
/** Clusters of the first start are there again at the second: what is to be new needs a shape of its own. */
const NEW_SHAPES_GIB = [1.5, 2] as const;

export const cold: Benchmark = { title: "Cold start: `pc dev` to the first result", run: runCold };

interface Start {
  /** Seconds from the start of `pc dev` until it says its address, and until the first result. */
  readonly listening: number;
  readonly firstResult: number;
  /** Seconds for the first result from another cluster of the same server: a node and an engine start. */
  readonly newCluster: number;
}

async function runCold(): Promise<Finding> {
  const fresh: Start[] = [];
  const again: Start[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    say(`round ${round} ...`);
    const home = await mkdtemp(join(BENCH_DIR, "cold-"));
    try {
      fresh.push(await startOnce(home, NEW_SHAPES_GIB[0]));
      again.push(await startOnce(home, NEW_SHAPES_GIB[1]));
    } finally {
      await rm(home, { recursive: true, force: true });
    }
  }
  const best = (starts: readonly Start[], read: (start: Start) => number) => Math.min(...starts.map(read));
  return {
    measurements: [measured("a new home", fresh), measured("a home that was used before", again)],
    ratios: [
      { name: "pc dev to the first result, new home, in s", value: best(fresh, (start) => start.firstResult) },
      { name: "pc dev to the first result, existing home, in s", value: best(again, (start) => start.firstResult) },
      { name: "node and engine start, in s", value: best(again, (start) => start.newCluster) },
    ],
    notes: [
      `Best and worst of ${ROUNDS}. A new home makes a database and an environment for the engine; the packages came from the cache of uv.`,
    ],
  };
}

/** The client's process is there before; importing Polars is not part of it. */
function startOnce(home: string, newShapeGiB: number): Promise<Start> {
  return withSubject(DEV_PYTHON, "frazil_subject", { FRAZIL_PROGRESS: "0" }, async (subject) => {
    const startedAt = performance.now();
    const seconds = () => (performance.now() - startedAt) / 1_000;
    let installation: Installation | undefined;
    try {
      installation = await startInstallation(home);
      const listening = seconds();
      await subject.ask("connect", { address: installation.address, token: installation.token });
      await subject.ask("first_result", { memory: 1 });
      const firstResult = seconds();
      return { listening, firstResult, newCluster: await subject.ask<number>("first_result", { memory: newShapeGiB }) };
    } finally {
      await installation?.stop();
    }
  });
}

function measured(subject: string, starts: readonly Start[]): Measurement {
  const bestAndWorst = (name: string, values: readonly number[]) => ({
    [`${name} s, best`]: Math.min(...values),
    [`${name} s, worst`]: Math.max(...values),
  });
  return {
    subject,
    figures: {
      ...bestAndWorst(
        "listening",
        starts.map((start) => start.listening),
      ),
      ...bestAndWorst(
        "first result",
        starts.map((start) => start.firstResult),
      ),
      ...bestAndWorst(
        "new cluster",
        starts.map((start) => start.newCluster),
      ),
    },
  };
}
