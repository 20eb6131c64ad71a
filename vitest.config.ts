import { defineConfig } from "vitest/config";

const TEST_TIMEOUT_MS = 30_000;
/** Tests mostly wait for processes, so more than one worker pays off on the smallest machine too. */
const WORKERS_MAX = 2;

export default defineConfig({
  test: {
    maxWorkers: WORKERS_MAX,
    projects: [
      {
        test: {
          name: "unit",
          include: [
            "{contracts,control-plane,infra,migrations,cli}/src/**/*.test.ts",
            "runner/agent/src/**/*.test.ts",
            "scripts/**/*.test.mjs",
            "test/bench/**/*.test.ts",
          ],
          testTimeout: TEST_TIMEOUT_MS,
        },
      },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts", "test/contract/**/*.test.ts"],
          globalSetup: ["test/harness/global-setup.ts"],
          testTimeout: TEST_TIMEOUT_MS,
          hookTimeout: TEST_TIMEOUT_MS,
        },
      },
      {
        test: {
          name: "simulation",
          include: ["test/simulation/**/*.test.ts"],
          globalSetup: ["test/simulation/global-setup.ts"],
          testTimeout: TEST_TIMEOUT_MS,
          // It runs beside other tests, at a low priority.
          hookTimeout: 4 * TEST_TIMEOUT_MS,
        },
      },
    ],
  },
});
