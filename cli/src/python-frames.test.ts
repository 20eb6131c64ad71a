import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { isPlan, readPython } from "./plan-bytes.ts";
import { loadFrames, type PythonRequest } from "./python-frames.ts";
import { fakeIo } from "./testing/fake-io.ts";
import { noPython, PYTHON } from "./testing/python.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-frames-"));
const elsewhere = mkdtempSync(join(tmpdir(), "frazil-elsewhere-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
  rmSync(elsewhere, { recursive: true });
});
const script = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

script("neighbour.py", "K = 10\ndef times(x): return x * K\n");
const etl = script(
  "etl.py",
  `import polars as pl
import neighbour
from neighbour import times
print("a print of the script")
FACTOR = 2
def scale(df): return df.with_columns(pl.col("a") * FACTOR * neighbour.K)
def one(x): return times(x) + FACTOR
_hidden = pl.LazyFrame({"a": [0]})
plain = pl.LazyFrame({"a": [1, 2, 3]}).filter(pl.col("a") > 1)
whole = pl.LazyFrame({"a": [1, 2, 3]}).map_batches(scale)
each = pl.LazyFrame({"a": [1, 2, 3]}).select(pl.col("a").map_elements(one, return_dtype=pl.Int64))
eager = pl.DataFrame({"a": [7]})
frames = [plain, whole]
named = {"x": plain}
if __name__ == "__main__":
    raise SystemExit("it must not be run as a program")
`,
);

async function load(request: Partial<PythonRequest>, python = PYTHON) {
  const io = fakeIo({ cwd: elsewhere, env: { PYTHONDONTWRITEBYTECODE: "1" } });
  const whole = { script: etl, name: null, many: false, keys: [], ...request };
  const answer = await loadFrames(io, python, whole).catch((error: unknown) => error as Error & { hint?: string });
  return { answer, err: io.err() };
}
async function framesOf(request: Partial<PythonRequest>) {
  const { answer } = await load(request);
  if (answer instanceof Error) throw answer;
  return answer;
}

/** Runs a plan as an engine would: in another process and directory, without the user's files. */
function collect(plan: Buffer): unknown {
  const path = join(elsewhere, "plan.bin");
  writeFileSync(path, plan);
  const code =
    "import polars as pl, json, sys; print(json.dumps(pl.LazyFrame.deserialize(open(sys.argv[1], 'rb')).collect().to_dict(as_series=False)))";
  return JSON.parse(execFileSync(PYTHON, ["-W", "ignore", "-c", code, path], { cwd: elsewhere }).toString());
}

describe.skipIf(noPython)(`frames of a Python file${noPython ? ` (skipped: ${noPython})` : ""}`, () => {
  it("are Polars' own plans, with the versions that wrote them", async () => {
    const { frames, polars, python } = await framesOf({ name: "plain" });
    expect(frames.map(({ name, bytes }) => [name, isPlan(bytes)])).toEqual([["plain", true]]);
    expect(`${polars} ${python}`).toMatch(/^\d+\.\d+\.\d+ 3\.\d+$/);
    expect(collect(frames[0]?.bytes as Buffer)).toEqual({ a: [2, 3] });
  });

  it("carry functions of the script and of the files beside it", async () => {
    const whole = (await framesOf({ name: "whole" })).frames[0]?.bytes as Buffer;
    expect(collect(whole)).toEqual({ a: [20, 40, 60] });
    const each = (await framesOf({ name: "each" })).frames[0]?.bytes as Buffer;
    expect(collect(each)).toEqual({ a: [12, 22, 32] });
  });

  it("say the Python in their bytes that they were written with", async () => {
    const { frames, python } = await framesOf({ name: "each" });
    expect(readPython(frames[0]?.bytes as Buffer)).toEqual({ hasPython: true, python });
    expect(readPython((await framesOf({ name: "plain" })).frames[0]?.bytes as Buffer).hasPython).toBe(false);
  });

  it("are not disturbed by the script's prints, which are shown on stderr", async () => {
    expect((await load({ name: "plain" })).err).toBe("a print of the script\n");
  });

  it("come from lists and dicts where many are wanted", async () => {
    expect((await framesOf({ name: "frames", many: true })).frames.map(({ name }) => name)).toEqual([
      "frames[0]",
      "frames[1]",
    ]);
    expect((await framesOf({ name: "named", many: true })).frames.map(({ name }) => name)).toEqual(["named['x']"]);
  });

  it("may be eager when they are asked for by name", async () => {
    expect(collect((await framesOf({ name: "eager" })).frames[0]?.bytes as Buffer)).toEqual({ a: [7] });
  });

  it("need no name where there is only one", async () => {
    const only = script("only.py", "import polars as pl\nbase = pl.DataFrame({'a': [1]})\nquery = base.lazy()\n");
    expect((await framesOf({ script: only })).frames.map(({ name }) => name)).toEqual(["query"]);
    const list = script("list.py", "import polars as pl\none = pl.LazyFrame({'a': [1]})\nall = [one, one, one]\n");
    expect((await framesOf({ script: list, many: true })).frames).toHaveLength(3);
  });

  it("are asked for by name where there are more", async () => {
    const { answer } = await load({});
    expect(answer).toMatchObject({
      message: `${etl} holds more than one LazyFrame: plain, whole, each`,
      hint: `say which: ${etl}:NAME`,
    });
  });

  it.each([
    ["nope", "has no nope"],
    ["FACTOR", "FACTOR in .* is of type int, not a LazyFrame"],
    ["one", "one in .* is a function"],
    ["frames", "is a list of 2 frames"],
  ])("%s is refused", async (name, message) => {
    const { answer } = await load({ name });
    expect((answer as Error).message).toMatch(new RegExp(message));
  });

  it("a script without any is refused", async () => {
    const { answer } = await load({ script: script("none.py", "x = 1\n") });
    expect((answer as Error).message).toContain("holds no LazyFrame");
  });

  it("a script's own error is shown as Python shows it, without lines of ours", async () => {
    const bad = script("bad.py", "def f():\n    return 1 / 0\nx = f()\n");
    const { answer, err } = await load({ script: bad });
    expect((answer as Error).message).toBe(`${bad} raised ZeroDivisionError`);
    const lines = err.split("\n").filter((line) => !/^\s*[~^]+\s*$/.test(line));
    expect(lines).toEqual([
      "Traceback (most recent call last):",
      `  File "${bad}", line 3, in <module>`,
      "    x = f()",
      `  File "${bad}", line 2, in f`,
      "    return 1 / 0",
      "ZeroDivisionError: division by zero",
      "",
    ]);
  });

  it("a script that ends itself, or does not parse, is told from one that raises", async () => {
    expect((await load({ script: script("exit.py", "import sys\nsys.exit(3)\n") })).answer).toMatchObject({
      message: expect.stringContaining("ended itself with exit code 3"),
    });
    const { answer, err } = await load({ script: script("syntax.py", "x = (\n") });
    expect((answer as Error).message).toContain("raised SyntaxError");
    expect(err).toContain("syntax.py");
  });
});

describe.skipIf(noPython)("key expressions", () => {
  const keysOf = async (expr: string, request: Partial<PythonRequest> = {}) =>
    load({ script: null, keys: [{ name: "k", expr }], ...request });

  it("are evaluated with pl, and with the script's own names", async () => {
    const { answer } = await keysOf('pl.col("d").dt.year()');
    expect(answer).toMatchObject({ frames: [], keys: [{ name: "k" }] });
    expect(await keysOf('pl.col("a") % FACTOR', { script: etl, name: "plain" })).toMatchObject({
      answer: { keys: [{ name: "k" }] },
    });
  });

  it.each([
    ["1 +", "SyntaxError"],
    ["FACTOR", "NameError"],
    ["'day'", "of type str, not a Polars expression"],
  ])("%s is refused", async (expr, message) => {
    expect(((await keysOf(expr)).answer as Error).message).toContain(message);
  });
});

describe("the user's Python", () => {
  it("that is not there is named", async () => {
    const { answer } = await load({}, "/nonexistent/python");
    expect(answer).toMatchObject({ message: "/nonexistent/python could not be started: there is no such program" });
  });

  it.skipIf(noPython)("that has no Polars is told to", async () => {
    const bare = join(elsewhere, "bare");
    mkdirSync(bare);
    // -S leaves the environment's packages out.
    writeFileSync(join(bare, "python"), `#!/bin/sh\nexec ${PYTHON} -S "$@"\n`, { mode: 0o755 });
    const { answer } = await load({}, join(bare, "python"));
    expect(answer).toMatchObject({
      message: expect.stringContaining("can't import polars"),
      hint: expect.stringContaining("--python"),
    });
  });
});
