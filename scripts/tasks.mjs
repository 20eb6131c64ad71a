import { join } from "node:path";
import { parseArgs } from "node:util";
import { ROOT, VENV_BIN } from "./bootstrap/paths.mjs";
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
  chaos: async (env, args) => {
    await buildBundles(env);
    return runCommand(join(VENV_BIN, "python"), ["-u", join(ROOT, "test", "chaos", "run.py"), ...args], { env });
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
  "test:simulation": (env, args) => runSuites(env, ["simulation"], args),
  simulate: (env, args) => {
    const { variables, file } = whatToSimulate(args);
    return runSuites({ ...env, ...variables }, ["simulation"], [file]);
  },
  "test:e2e": (env, args) => runSuites(env, ["e2e"], args),
  "test:chaos": (env, args) => runSuites(env, ["chaos"], args),
  "test:python": (env, args) => runSuites(env, ["client", "engine"], args),
};

/** `--seed 7 --runs 1` is seed 7 alone; without them, the seeds that CI runs. `--planted`: finds every fault that is planted into a copy. */
function whatToSimulate(args) {
  const { values } = parseArgs({
    args,
    options: { seed: { type: "string" }, runs: { type: "string" }, planted: { type: "boolean" } },
  });
  if (values.planted) return { variables: { SIMULATE_PLANTED: "all" }, file: "test/simulation/planted" };
  const variables = { SIMULATE_SEED: values.seed ?? "1", SIMULATE_RUNS: values.runs ?? "1000" };
  return { variables, file: "test/simulation/seeds" };
}

function runNode(env, file, args) {
  return runCommand("node", [join(ROOT, file), ...args], { env });
}
