import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { play, scenario } from "./commands.ts";
import { PLANTED, plant } from "./planted.ts";
import { simulate } from "./run.ts";
import { useSimulation } from "./seeds.ts";

/** `npm run simulate -- --planted` looks for the rare ones too. */
const WITH_RARE = process.env.SIMULATE_PLANTED === "all";
const RUNS_PER_FAULT = WITH_RARE ? 600 : 60;
const FAULTS = PLANTED.filter((planted) => WITH_RARE || planted.isRare !== true);

describe("a fault that is planted into the control plane", () => {
  const simulation = useSimulation();
  it.each(FAULTS)("is found: $name", { timeout: 600_000 }, async (planted) => {
    const { product, remove } = await plant(planted);
    try {
      for (let seed = 1; seed <= RUNS_PER_FAULT; seed++) {
        const [acts = []] = fc.sample(scenario, { seed, numRuns: 1 });
        const { faults } = await simulate(simulation.database(), product, seed, (simulated) => play(simulated, acts));
        if (faults.length === 0) continue;
        console.log(`${planted.name}: found in run ${seed}: ${faults[0]?.slice(0, 200)}`);
        expect(faults.join("\n")).toMatch(planted.found);
        return;
      }
      expect.fail(`not found in ${RUNS_PER_FAULT} runs`);
    } finally {
      remove();
    }
  });
});
