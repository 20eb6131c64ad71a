import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { STATE_DIR, VENV_BIN } from "../bootstrap/paths.mjs";
import { runCommand } from "../bootstrap/run-command.mjs";
import { buildBundles } from "../build.mjs";
import { CHECKS, runWords } from "./checks.mjs";
import { readJunitReport, readVitestReport } from "./reports.mjs";

const REPORTS_DIR = join(STATE_DIR, "reports");

/** Everything that `npm test` runs, in this order. */
export const SUITES = [
  ...CHECKS.map(({ name, command }) => ({ name, kind: "check", run: (env) => runCheck(env, command) })),
  { name: "unit", kind: "tests", run: (env, args) => runVitest(env, "unit", args) },
  { name: "client", kind: "tests", run: (env, args) => runPytest(env, "client", args, "client/tests") },
  { name: "engine", kind: "tests", run: (env, args) => runPytest(env, "engine", args, "runner/engine/tests") },
  { name: "integration", kind: "tests", run: (env, args) => runVitest(env, "integration", args) },
  { name: "simulation", kind: "tests", run: (env, args) => runVitest(env, "simulation", ["--maxWorkers=4", ...args]) },
  { name: "e2e", kind: "tests", run: (env, args) => runOnBundles(env, "e2e", args) },
  { name: "chaos", kind: "tests", run: (env, args) => runOnBundles(env, "chaos", args) },
];

/** Runs the named suites one after the other, all of them even when one fails. Its last line is the sum. Resolves to the exit code. */
export async function runSuites(env, names, args = []) {
  const results = [];
  for (const suite of SUITES.filter(({ name }) => names.includes(name))) {
    console.log(`\n== ${suite.name}`);
    const startedAt = Date.now();
    results.push({ name: suite.name, ...(await suite.run(env, args)), seconds: (Date.now() - startedAt) / 1000 });
  }
  printSummary(results);
  return results.every((result) => result.failed === 0) ? 0 : 1;
}

async function runCheck(env, command) {
  const code = await runWords(command, env);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 };
}

async function runVitest(env, project, args) {
  const report = freshReport(`${project}.json`);
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
  const code = await runCommand("vitest", ["run", "--project", project, ...reporters, ...args], { env });
  return agreeWithExitCode(readVitestReport(report), code);
}

/** Tests of the bundled programs, as users run them. */
async function runOnBundles(env, name, args) {
  await buildBundles(env);
  return runPytest(env, name, args, `test/${name}`);
}

/** Each Python package has settings and helper modules of its own, so that each is a run of its own. */
async function runPytest(env, name, args, folder) {
  const report = freshReport(`${name}.xml`);
  const pytestArgs = ["-m", "pytest", "--junitxml", report, ...(args.length > 0 ? args : [folder])];
  const code = await runCommand(join(VENV_BIN, "python"), pytestArgs, { env });
  return agreeWithExitCode(readJunitReport(report), code);
}

function freshReport(name) {
  mkdirSync(REPORTS_DIR, { recursive: true });
  const file = join(REPORTS_DIR, name);
  rmSync(file, { force: true });
  return file;
}

/** A runner that fails without naming a failed test (it crashed, found no tests, or hit an unhandled rejection) is one failure. */
function agreeWithExitCode(counts, code) {
  return code !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts;
}

function printSummary(results) {
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  const width = Math.max(...results.map((result) => result.name.length));
  console.log("");
  for (const { name, passed, failed, skipped, seconds } of results) {
    const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
    console.log(`${name.padEnd(width)}  ${seconds.toFixed(1).padStart(6)} s  ${counts}`);
  }
  console.log(`${sum("passed")} passed, ${sum("failed")} failed, ${sum("skipped")} skipped`);
}
