import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { ROOT, VENV_BIN } from "../bootstrap/paths.mjs";
import { readJunitReport, readVitestReport } from "./reports.mjs";

const folder = mkdtempSync(join(tmpdir(), "frazil-reports-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs a test runner on planted tests; it fails, and its report is what counts. */
function runFailing(program, args) {
  return new Promise((resolve) => {
    execFile(program, args, { cwd: folder }, (error) => resolve(error?.code));
  });
}

it("counts the tests of vitest, and a file that cannot be loaded as one failure", async () => {
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  writeFileSync(
    join(folder, "some.test.mjs"),
    'test("passes", () => {}); test("too", () => {}); test("fails", () => { throw new Error("an <odd> one"); }); test.skip("skipped", () => {}); test.todo("todo");',
  );
  writeFileSync(join(folder, "broken.test.mjs"), 'import "./no-such-file.mjs"; test("never runs", () => {});');
  const report = join(folder, "vitest.json");
  const args = ["run", "--globals", "--root", folder, "--reporter=json", `--outputFile=${report}`];
  expect(await runFailing(join(ROOT, "node_modules", ".bin", "vitest"), args)).toBe(1);
  expect(readVitestReport(report)).toMatchObject({ passed: 2, failed: 2, skipped: 2 });
  const failures = readVitestReport(report).failures.toSorted((a, b) => a.test.localeCompare(b.test));
  expect(failures).toEqual([
    { test: join(folder, "broken.test.mjs"), message: expect.stringContaining("no-such-file.mjs") },
    { test: `${join(folder, "some.test.mjs")} > fails`, message: expect.stringContaining("an <odd> one") },
  ]);
});

it("counts the tests of pytest, and an error in a fixture as a failure", async () => {
  const text = `
import pytest
def test_passes(): pass
def test_fails(): assert "a" < "a" and "\\n", "not <less>"
@pytest.mark.skip
def test_skipped(): pass
@pytest.fixture
def broken(): raise ValueError("broken")
def test_error(broken): pass
`;
  writeFileSync(join(folder, "test_some.py"), text);
  const report = join(folder, "python.xml");
  const args = ["-m", "pytest", "-p", "no:cacheprovider", "--junitxml", report, "test_some.py"];
  expect(await runFailing(join(VENV_BIN, "python"), args)).toBe(1);
  expect(readJunitReport(report)).toEqual({
    passed: 1,
    failed: 2,
    skipped: 1,
    failures: [
      { test: "test_some > test_fails", message: expect.stringMatching(/^AssertionError: not <less>\nassert/) },
      { test: "test_some > test_error", message: expect.stringContaining("ValueError: broken") },
    ],
  });
});

it("counts nothing where a runner wrote no report", () => {
  const none = { passed: 0, failed: 0, skipped: 0, failures: [] };
  expect(readVitestReport(join(folder, "none.json"))).toEqual(none);
  expect(readJunitReport(join(folder, "none.xml"))).toEqual(none);
});
