import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { expandPatterns, readTarget } from "./targets.ts";
import { fakeIo } from "./testing/fake-io.ts";
import { planOf } from "./testing/fake-plans.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-targets-"));
afterAll(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, "plans"));
for (const name of ["b.bin", "a.bin", "10.sql"])
  writeFileSync(join(folder, "plans", name), name.endsWith("sql") ? "SELECT 1" : planOf("2.1.0"));
writeFileSync(join(folder, "etl.py"), "");
writeFileSync(join(folder, "odd[1].sql"), "SELECT 2;\n-- the end");
writeFileSync(join(folder, "query.txt"), "from t");
writeFileSync(join(folder, "noise.bin"), Buffer.from([0xff, 0xfe, 0]));
writeFileSync(join(folder, "plan.json"), '{"plan": 1}');
writeFileSync(join(folder, "empty.sql"), " \n");

const read = (word: string, stdin?: string | Buffer) =>
  readTarget(fakeIo({ cwd: folder, ...(stdin === undefined ? {} : { stdin }) }), word);

describe("readTarget", () => {
  it.each([
    "SELECT 1",
    "  with x as (select 1) from x",
    "-- a comment\nSELECT 1",
    "(SELECT 1) UNION (SELECT 2)",
    "FROM read_csv('a.csv')",
  ])("%j is SQL", async (sql) => expect(await read(sql)).toMatchObject({ kind: "sql", text: sql }));

  it("files are what they hold, whatever their name", async () => {
    expect(await read("plans/a.bin")).toMatchObject({ kind: "plan", bytes: planOf("2.1.0") });
    expect(await read("query.txt")).toMatchObject({ kind: "sql", text: "from t" });
    expect(await read("odd[1].sql")).toMatchObject({ kind: "sql", text: "SELECT 2;\n-- the end" });
  });

  it("Python files may name a frame", async () => {
    expect(await read("etl.py")).toMatchObject({ kind: "python", script: join(folder, "etl.py"), frame: null });
    expect(await read("etl.py:daily")).toMatchObject({
      kind: "python",
      script: join(folder, "etl.py"),
      frame: "daily",
    });
  });

  it("- is stdin, SQL or a plan", async () => {
    expect(await read("-", "SELECT 1")).toMatchObject({ kind: "sql", name: "stdin", text: "SELECT 1" });
    expect(await read("-", planOf("2.1.0"))).toMatchObject({ kind: "plan", name: "stdin" });
  });

  it.each([
    ["missing.sql", "there is no file missing.sql"],
    ["missing.py:x", "there is no file missing.py"],
    ["hello", "neither a file nor SQL"],
    ["noise.bin", "neither a Polars plan nor SQL"],
    ["plan.json", "a plan in JSON"],
    ["empty.sql", "holds no SQL"],
    ["-", "stdin is empty"],
  ])("%s is refused", async (word, message) => expect(read(word)).rejects.toThrow(message));
});

describe("expandPatterns", () => {
  it("gives the files that match, sorted, and leaves other words alone", () => {
    const sql = "SELECT * FROM read_parquet('*.parquet')";
    expect(expandPatterns(folder, ["plans/*.bin", sql, "plans/10.sql"])).toEqual([
      join("plans", "a.bin"),
      join("plans", "b.bin"),
      sql,
      "plans/10.sql",
    ]);
  });

  it("takes a file with brackets in its name for that file", () => {
    expect(expandPatterns(folder, ["odd[1].sql"])).toEqual(["odd[1].sql"]);
  });

  it("keeps the frame's name with each Python file", () => {
    expect(expandPatterns(folder, ["e*.py:frames"])).toEqual(["etl.py:frames"]);
  });

  it("refuses a pattern that matches nothing", () => {
    expect(() => expandPatterns(folder, ["plans/*.parquet"])).toThrow("no file matches plans/*.parquet");
  });
});
