import { existsSync, readFileSync } from "node:fs";

/** Counts of a run of vitest from its JSON report. A file that could not be loaded has no tests and counts as one failure. */
export function readVitestReport(file) {
  if (!existsSync(file)) return { passed: 0, failed: 0, skipped: 0 };
  const report = JSON.parse(readFileSync(file, "utf8"));
  const broken = report.testResults.filter(
    (result) => result.status === "failed" && !result.assertionResults.some((test) => test.status === "failed"),
  );
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + broken.length,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

/** Counts of a run of pytest from its JUnit report. An error while collecting or in a fixture counts as a failure. */
export function readJunitReport(file) {
  if (!existsSync(file)) return { passed: 0, failed: 0, skipped: 0 };
  const suites = readFileSync(file, "utf8").match(/<testsuite [^>]*>/g) ?? [];
  const sum = (name) => suites.reduce((total, suite) => total + readNumber(suite, name), 0);
  const failed = sum("failures") + sum("errors");
  const skipped = sum("skipped");
  return { passed: Math.max(0, sum("tests") - failed - skipped), failed, skipped };
}

function readNumber(element, attribute) {
  return Number(new RegExp(` ${attribute}="(\\d+)"`).exec(element)?.[1] ?? 0);
}
