import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { CLUSTER, JOB, NODE, TASK } from "../../control-plane/src/domain/lifecycles.ts";
import { type Act, play, scenario } from "./commands.ts";
import { createSimulationDatabase, type SimulationDatabase } from "./database.ts";
import type { Move } from "./oracle.ts";
import { loadProduct, type Product } from "./product.ts";
import { type Outcome, simulate } from "./run.ts";
import { installFakes } from "./scheduler.ts";

export const SOURCES = fileURLToPath(new URL("../../control-plane/src", import.meta.url));
const TRACES_DIR = fileURLToPath(new URL("../../.frazil/simulation", import.meta.url));
/** Which seeds to run; `npm run simulate` sets these. */
const FIRST_SEED = Number(process.env.SIMULATE_SEED ?? 1);
const RUNS = Number(process.env.SIMULATE_RUNS ?? 1_000);
const CHUNK = 100;
const CHUNK_TIMEOUT_MS = 600_000;
/** A failing scenario is made smaller for as long as this. */
const SHRINK_MS = 120_000;
/** So many runs come by every move that the lifecycles allow, the rare ones too. */
const RUNS_OF_ALL_MOVES = 2_000;
/** A job that ends well has run before, and nodes here finish every publishing before its last attempt. */
const NEVER_SEEN = ["job: queued -> succeeded", "task: publishing -> failed"];

/** A database for the simulations of one test file; they run one after the other. */
export function useSimulation(): { database(): SimulationDatabase; product(): Product } {
  let database: SimulationDatabase | undefined;
  let product: Product | undefined;
  beforeAll(async () => {
    installFakes();
    database = await createSimulationDatabase(inject("postgresUrl"), `simulation_${randomBytes(6).toString("hex")}`);
    product = await loadProduct(SOURCES);
  });
  afterAll(() => database?.close());
  return { database: () => database as SimulationDatabase, product: () => product as Product };
}

/** One seed is one scenario in one order of events. Undefined: every promise was kept. */
export async function trySeed(
  database: SimulationDatabase,
  product: Product,
  seed: number,
  onOutcome: (outcome: Outcome) => void = () => undefined,
): Promise<{ acts: readonly Act[]; outcome: Outcome } | undefined> {
  let failing: Outcome | undefined;
  const property = fc.asyncProperty(scenario, async (acts) => {
    const outcome = await simulate(database, product, seed, (simulated) => play(simulated, acts));
    onOutcome(outcome);
    if (outcome.faults.length === 0) return;
    failing = outcome;
    throw new Error(outcome.faults.join("\n"));
  });
  const settings = { seed, numRuns: 1, interruptAfterTimeLimit: SHRINK_MS, markInterruptAsFailure: true };
  const { failed, counterexample } = await fc.check(property, settings);
  if (!failed) return undefined;
  if (counterexample === null || failing === undefined) throw new Error(`seed ${seed} took over ${SHRINK_MS} ms`);
  return { acts: counterexample[0], outcome: failing };
}

function report(seed: number, { acts, outcome }: { acts: readonly Act[]; outcome: Outcome }): string {
  mkdirSync(TRACES_DIR, { recursive: true });
  const file = join(TRACES_DIR, `seed-${seed}.log`);
  writeFileSync(file, outcome.trace.join("\n"));
  return [
    `seed ${seed}: ${outcome.faults.slice(0, 5).join("\n")}`,
    `again: npm run simulate -- --seed ${seed} --runs 1`,
    `with: ${acts.map((act) => JSON.stringify(act)).join("\n      ")}`,
    `trace: ${file}`,
  ].join("\n");
}

/** Runs every seed of this part, and looks whether together they came by every move. */
export function testSeeds(part: number, parts: number): void {
  const seeds = Array.from({ length: RUNS }, (_, at) => FIRST_SEED + at).filter((_, at) => at % parts === part);
  const chunks = Array.from({ length: Math.ceil(seeds.length / CHUNK) }, (_, at) =>
    seeds.slice(at * CHUNK, (at + 1) * CHUNK),
  );
  const seen = new Set<string>();
  const total = { runs: 0, steps: 0, statements: 0, lockWaits: 0, jobs: 0, tasks: 0, attempts: 0, kills: 0 };
  const note = (outcome: Outcome) => {
    for (const move of outcome.moves) seen.add(nameOf(move));
    total.runs += 1;
    for (const key of ["steps", "statements", "lockWaits", "kills"] as const) total[key] += outcome[key];
    for (const key of ["jobs", "tasks", "attempts"] as const) total[key] += outcome.counts[key];
  };
  describe("the flow, under faults", () => {
    const simulation = useSimulation();
    afterAll(() => {
      const missing = allMoves().filter((move) => !seen.has(move) && !NEVER_SEEN.includes(move));
      console.log(`part ${part + 1} of ${parts}: ${JSON.stringify({ ...total, missing })}`);
    });
    it.each(chunks.map((chunk) => [chunk[0], chunk.at(-1), chunk] as const))(
      "keeps every promise in seeds %i to %i",
      { timeout: CHUNK_TIMEOUT_MS },
      async (_first, _last, chunk) => {
        for (const seed of chunk) {
          const failure = await trySeed(simulation.database(), simulation.product(), seed, note);
          if (failure !== undefined) expect.fail(report(seed, failure));
        }
      },
    );
    it.runIf(seeds.length >= RUNS_OF_ALL_MOVES)("came by every move that the lifecycles allow", () => {
      expect(allMoves().filter((move) => !seen.has(move) && !NEVER_SEEN.includes(move))).toEqual([]);
    });
    it.runIf(seeds.length === 0)("has no seed for this part", () => expect(RUNS).toBeLessThan(parts));
  });
}

const nameOf = (move: Pick<Move, "kind" | "was" | "became">) => `${move.kind}: ${move.was} -> ${move.became}`;

function allMoves(): string[] {
  return Object.entries({ job: JOB, task: TASK, cluster: CLUSTER, node: NODE }).flatMap(([kind, lifecycle]) =>
    Object.entries(lifecycle).flatMap(([was, events]) =>
      Object.values(events as Record<string, string>).map((became) => nameOf({ kind, was, became })),
    ),
  );
}
