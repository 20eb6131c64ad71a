import { defineConfig } from "vitest/config";

const TEST_TIMEOUT_MS = 30_000;
const E2E_TIMEOUT_MS = 120_000;

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["{contracts,control-plane,infra,migrations,cli}/src/**/*.test.ts", "runner/agent/src/**/*.test.ts"],
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
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          testTimeout: E2E_TIMEOUT_MS,
          hookTimeout: E2E_TIMEOUT_MS,
          fileParallelism: false,
        },
      },
    ],
  },
});
