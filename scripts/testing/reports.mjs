import { existsSync, readFileSync } from "node:fs";

const NOTHING = { passed: 0, failed: 0, skipped: 0, failures: [] };

/**
 * Counts of a run of vitest from its JSON report, and what failed. A file that could not be loaded has no tests and counts as one failure.
 * @typedef {{ passed: number, failed: number, skipped: number, failures: { test: string, message: string }[] }} Counts
 * @returns {Counts}
 */
export function readVitestReport(file) {
  if (!existsSync(file)) return NOTHING;
  const report = JSON.parse(readFileSync(file, "utf8"));
  const failures = report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const failed = assertionResults.filter((test) => test.status === "failed");
    if (status === "failed" && failed.length === 0) return [{ test: name, message }];
    return failed.map((test) => ({ test: `${name} > ${test.fullName}`, message: test.failureMessages.join("\n") }));
  });
  return {
    passed: report.numPassedTests,
    failed: failures.length,
    skipped: report.numPendingTests + report.numTodoTests,
    failures,
  };
}

/**
 * Counts of a run of pytest from its JUnit report, and what failed. An error while collecting or in a fixture counts as a failure.
 * @returns {Counts}
 */
export function readJunitReport(file) {
  if (!existsSync(file)) return NOTHING;
  const report = readFileSync(file, "utf8");
  const suites = report.match(/<testsuite [^>]*>/g) ?? [];
  const sum = (name) => suites.reduce((total, suite) => total + Number(attributeOf(suite, name) || 0), 0);
  const failed = sum("failures") + sum("errors");
  const skipped = sum("skipped");
  const failures = [...report.matchAll(/(<testcase [^>]*>)\s*(<(?:failure|error) [^>]*>)/g)].map(
    ([, test, failure]) => ({
      test: `${attributeOf(test, "classname")} > ${attributeOf(test, "name")}`,
      message: attributeOf(failure, "message"),
    }),
  );
  return { passed: Math.max(0, sum("tests") - failed - skipped), failed, skipped, failures };
}

function attributeOf(element, attribute) {
  const text = new RegExp(` ${attribute}="([^"]*)"`).exec(element)?.[1] ?? "";
  return text.replace(/&(?:#(\d+)|(\w+));/g, (whole, code, name) =>
    code === undefined ? (ENTITIES[name] ?? whole) : String.fromCodePoint(Number(code)),
  );
}
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
