import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { choosePython, findPythons } from "./pythons.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "frazil-pythons-"));
});
afterEach(() => rmSync(root, { recursive: true }));

function place(directory: string, ...names: string[]): string {
  const path = join(root, directory);
  mkdirSync(path, { recursive: true });
  for (const name of names) writeFileSync(join(path, name), "");
  return path;
}

test("interpreters are found on PATH first, then with pyenv and uv, one per minor from 3.10 on, the newest patch", async () => {
  const bin = place("bin", "python3", "python3.12", "python3.9", "python3.12-config");
  const shims = place("pyenv/shims", "python3.13");
  place("pyenv/versions/3.11.2/bin", "python3.11");
  place("pyenv/versions/3.11.10/bin", "python3.11");
  place("pyenv/versions/3.12.1/bin", "python3.12");
  place("uv/cpython-3.10.4-linux/bin", "python3.10");
  const found = await findPythons({
    PATH: `${shims}:${bin}`,
    PYENV_ROOT: join(root, "pyenv"),
    UV_PYTHON_INSTALL_DIR: join(root, "uv"),
  });
  expect(found).toEqual([
    { minor: "3.10", path: join(root, "uv/cpython-3.10.4-linux/bin/python3.10") },
    { minor: "3.11", path: join(root, "pyenv/versions/3.11.10/bin/python3.11") },
    { minor: "3.12", path: join(bin, "python3.12") },
  ]);
});

const pythons = ["3.10", "3.12", "3.13"].map((minor) => ({ minor, path: `/p/${minor}` }));
const chosen = (minor: string, hasPython: boolean, from = pythons) => {
  const choice = choosePython(from, minor, hasPython);
  return choice.kind === "chosen" ? choice.python.minor : choice.message;
};

test("pickled functions run on the minor that wrote them and on no other; other plans on the nearest", () => {
  expect(chosen("3.12", true)).toBe("3.12");
  expect(chosen("3.11", true)).toMatch(/3\.11.*This node has: 3\.10, 3\.12, 3\.13\.$/);
  expect(chosen("3.12", false)).toBe("3.12");
  expect(chosen("3.14", false)).toBe("3.13");
  expect(chosen("3.9", false)).toBe("3.10");
  expect(chosen("3.11", false, [])).toContain("No Python 3.10 or later");
});
