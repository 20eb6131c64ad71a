import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ROOT, STATE_DIR, VENV_BIN } from "../bootstrap/paths.mjs";
import { runCommand, runKeeping } from "../bootstrap/run-command.mjs";
import { buildBundles } from "../build.mjs";
import { CHECKS, runWords } from "./checks.mjs";
import { readJunitReport, readVitestReport } from "./reports.mjs";

const REPORTS_DIR = join(STATE_DIR, "reports");

/** Parts that run beside each other, as each of them waits most of its time. */
const ENGINE = beside("runner/engine/tests", "test_releases.py");
const E2E = beside("test/e2e", "test_versions.py", "test_dev.py", "test_leftovers.py");
const CHAOS = beside("test/chaos", "test_matrix.py");

/** Everything that `npm test` runs, in this order. */
export const SUITES = [
  ...CHECKS.map(({ name, command }) => ({ name, kind: "check", run: (env) => runCheck(env, command) })),
  // Keeps all processors busy by itself.
  { name: "unit", kind: "tests", isBusy: true, run: (env, args) => runVitest(env, "unit", args) },
  { name: "client", kind: "tests", run: (env, args) => runPytest(env, "client", args, "client/tests") },
  { name: "engine", kind: "tests", run: (env, args) => runPytest(env, "engine", args, ...ENGINE) },
  { name: "integration", kind: "tests", run: (env, args) => runVitest(env, "integration", args) },
  { name: "e2e", kind: "tests", run: (env, args) => runOnBundles(env, "e2e", args, ...E2E) },
  { name: "chaos", kind: "tests", run: (env, args) => runOnBundles(env, "chaos", args, ...CHAOS) },
  // Needs nothing but processor time, and its clock is its own: beside the others it takes what they leave.
  {
    name: "simulation",
    kind: "tests",
    isPatient: true,
    run: (env, args, way) => runVitest(env, "simulation", ["--maxWorkers=4", ...args], way),
  },
];

/**
 * Runs the named suites one after the other, all of them even when one fails. Those that are patient begin with the first tests that leave time, and are shown at the end.
 * Its last line is the sum. Resolves to the exit code.
 */
export async function runSuites(env, names, args = []) {
  const chosen = SUITES.filter(({ name }) => names.includes(name));
  const begun = new Map();
  const begin = (suite, way) => begun.get(suite) ?? timed(suite.run(env, args, way));
  const results = [];
  for (const suite of chosen) {
    if (suite.kind === "tests" && !suite.isBusy && begun.size === 0 && chosen.length > 1)
      for (const patient of chosen.filter(({ isPatient }) => isPatient)) begun.set(patient, begin(patient, LATER));
    console.log(`\n== ${suite.name}`);
    const { output = "", ...result } = await begin(suite, NOW);
    process.stdout.write(output);
    results.push({ name: suite.name, ...result });
  }
  printSummary(results);
  return results.every((result) => result.failed === 0) ? 0 : 1;
}

/** How a suite's commands run: on this terminal, or at a low priority with their output kept. */
const NOW = { run: runShowing, prefix: [] };
const LATER = { run: runKeeping, prefix: ["nice", "-n", "10"] };

async function timed(running) {
  const startedAt = Date.now();
  const result = await running;
  return { ...result, seconds: (Date.now() - startedAt) / 1000 };
}

async function runCheck(env, command) {
  const code = await runWords(command, env);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0, failures: [] };
}

async function runVitest(env, project, args, { run, prefix } = NOW) {
  const report = freshReport(`${project}.json`);
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
  const words = [...prefix, "vitest", "run", "--project", project, ...reporters, ...args];
  const { code, output } = await run(words[0], words.slice(1), { env });
  return { ...agreeWithExitCode(readVitestReport(report), code), output };
}

/** Tests of the bundled programs, as users run them. */
async function runOnBundles(env, name, args, ...parts) {
  await buildBundles(env);
  return runPytest(env, name, args, ...parts);
}

/** A folder of tests in two parts: these files, and all others. */
function beside(folder, ...names) {
  const files = names.map((name) => `${folder}/${name}`);
  return [files, [folder, ...files.map((file) => `--ignore=${file}`)]];
}

/**
 * Each Python package has settings and helper modules of its own, so that each is a run of its own. Its parts run beside each other; the output of all
 * but the first is printed when that has ended.
 */
async function runPytest(env, name, args, ...parts) {
  const wanted = args.length > 0 ? [args] : parts.map((part) => [part].flat());
  const runs = wanted.map((part, number) => {
    const report = freshReport(`${name}-${number}.xml`);
    const pytestArgs = ["-m", "pytest", "--junitxml", report, ...part];
    const run = number === 0 ? runShowing : runKeeping;
    return { report, ended: run(join(VENV_BIN, "python"), pytestArgs, { env }) };
  });
  const counted = [];
  for (const { report, ended } of runs) {
    const { code, output } = await ended;
    process.stdout.write(output);
    counted.push(agreeWithExitCode(readJunitReport(report), code));
  }
  return sumOf(counted);
}

/** As `runKeeping`, with nothing left to print. */
async function runShowing(command, args, options) {
  return { code: await runCommand(command, args, options), output: "" };
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

function sumOf(results) {
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  const failures = results.flatMap((result) => result.failures);
  return { passed: sum("passed"), failed: sum("failed"), skipped: sum("skipped"), failures };
}

/** What failed stands at the end once more: who has only the last lines of a log sees it too. */
const FAILURES_SHOWN_MAX = 20;
const FAILURE_LINES_MAX = 8;

function printFailures(failures) {
  for (const { test, message } of failures.slice(0, FAILURES_SHOWN_MAX)) {
    console.log(`\nFAILED ${test.replace(`${ROOT}/`, "")}`);
    for (const line of message.split("\n").slice(0, FAILURE_LINES_MAX)) console.log(`  ${line}`);
  }
  if (failures.length > FAILURES_SHOWN_MAX) console.log(`\nand ${failures.length - FAILURES_SHOWN_MAX} more failed`);
}

function printSummary(results) {
  const sum = sumOf(results);
  const width = Math.max(...results.map((result) => result.name.length));
  printFailures(sum.failures);
  console.log("");
  for (const { name, passed, failed, skipped, seconds } of results) {
    const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
    console.log(`${name.padEnd(width)}  ${seconds.toFixed(1).padStart(6)} s  ${counts}`);
  }
  console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
}
