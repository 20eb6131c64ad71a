import { join } from "node:path";
import { ROOT } from "./bootstrap/paths.mjs";
import { runCommand } from "./bootstrap/run-command.mjs";
import { buildBundles } from "./build.mjs";
import { lockDependencies } from "./lock.mjs";
import { formatSources } from "./testing/checks.mjs";
import { runSuites, SUITES } from "./testing/suites.mjs";

const CHECKS = SUITES.filter((suite) => suite.kind === "check").map((suite) => suite.name);

/** Script name -> function of (environment, arguments) that resolves to an exit code. */
export const TASKS = {
  setup: async () => 0,
  demo: (env, args) => runNode(env, "scripts/demo.mjs", args),
  dev: (env, args) => runNode(env, "cli/src/main.ts", ["dev", ...args]),
  build: (env) => buildBundles(env),
  bench: async (env, args) => {
    await buildBundles(env);
    return runNode(env, "test/bench/main.ts", args);
  },
  generate: (env, args) => runNode(env, "scripts/generate.mjs", args),
  format: (env) => formatSources(env),
  lock: (env) => lockDependencies(env),
  check: (env) => runSuites(env, CHECKS),
  test: (env) =>
    runSuites(
      env,
      SUITES.map((suite) => suite.name),
    ),
  "test:unit": (env, args) => runSuites(env, ["unit"], args),
  "test:integration": (env, args) => runSuites(env, ["integration"], args),
  "test:e2e": (env, args) => runSuites(env, ["e2e"], args),
  "test:python": (env, args) => runSuites(env, ["client", "engine"], args),
};

function runNode(env, file, args) {
  return runCommand("node", [join(ROOT, file), ...args], { env });
}
