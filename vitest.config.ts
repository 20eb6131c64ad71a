import { defineConfig } from "vitest/config";

const TEST_TIMEOUT_MS = 30_000;

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: [
            "{contracts,control-plane,infra,migrations,cli}/src/**/*.test.ts",
            "runner/agent/src/**/*.test.ts",
            "scripts/**/*.test.mjs",
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
    ],
  },
});
