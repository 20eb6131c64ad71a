import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SubmitLine } from "@frazil/contracts";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { eventually } from "../testing/eventually.ts";
import { countsOf, ended, makeError, makeResult } from "../testing/fake-data.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { planOf } from "../testing/fake-plans.ts";
import { type FakeServer, startFakeServer } from "../testing/fake-server.ts";
import { noPython, PYTHON } from "../testing/python.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-many-"));
afterAll(() => rmSync(folder, { recursive: true }));
mkdirSync(join(folder, "plans"));
writeFileSync(join(folder, "plans", "a.bin"), planOf("2.1.0", "one"));
writeFileSync(join(folder, "plans", "b.bin"), planOf("2.1.0", "two"));
writeFileSync(join(folder, "plans", "c.bin"), planOf("2.1.0", "one"));
writeFileSync(join(folder, "old.bin"), planOf("2.0.0"));
writeFileSync(join(folder, "one.sql"), "SELECT 1");
writeFileSync(join(folder, "template.sql"), "SELECT {n}\n");
writeFileSync(join(folder, "rows.csv"), 'day,region,unused\n2024-01-01,eu,x\n2024-01-02,"o\'us",y\n');
writeFileSync(join(folder, "etl.py"), "import polars as pl\nframes = [pl.LazyFrame({'a': [i]}) for i in range(3)]\n");

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());

const start = (args: string[]) => {
  const io = fakeIo({ cwd: folder, env: { ...server.env, FRAZIL_PYTHON: PYTHON } });
  return { io, done: runCli(io, ["spawn-many", ...args]) };
};
const run = async (args: string[]) => {
  const { io, done } = start(args);
  return { code: await done, out: io.out(), err: io.err() };
};

/** What arrived: the spec, and for each frame its SQL, or the body of its plan. */
function arrived() {
  const lines = (server.to("POST", "/v1/jobs").at(-1)?.body ?? []) as SubmitLine[];
  const plans = new Map(lines.flatMap((line) => (line.line === "plan" ? [[line.number, line.plan] as const] : [])));
  const texts = lines
    .flatMap((line) => (line.line === "frames" ? line.plans : []))
    .map((number) => {
      const plan = plans.get(number);
      if (plan === undefined) return expect.fail(`there is no plan ${number}`);
      return plan.kind === "sql" ? plan.text : Buffer.from(plan.data, "base64").subarray(79).toString();
    });
  const [header] = lines;
  return { spec: header?.line === "header" ? header.spec : expect.fail("no header"), texts, plans: plans.size };
}

describe("files", () => {
  it("come from patterns and names, equal ones are sent once", async () => {
    const { code, out } = await run(["plans/*.bin", "one.sql", "SELECT 2", "--dst", "out/", "--partition-by", "day"]);
    const { spec, texts, plans } = arrived();
    expect([code, texts, plans]).toEqual([0, ["one", "two", "one", "SELECT 1", "SELECT 2"], 4]);
    expect(spec).toMatchObject({
      client: { polars: "2.1.0" },
      output: { destination: join(folder, "out/") },
      partitionBy: { keys: [{ name: "day" }] },
    });
    expect(out).toMatch(/^job_\w{26}\n$/);
  });

  it.skipIf(noPython)("may be Python files with a list of frames", async () => {
    await run(["etl.py:frames"]);
    expect(arrived().texts).toHaveLength(3);
  });

  it("of two Polars releases are refused, and nothing is sent", async () => {
    const { code, err } = await run(["old.bin", "plans/a.bin"]);
    expect([code, err]).toEqual([
      2,
      expect.stringContaining("old.bin was written by Polars 2.0.0, and plans/a.bin by 2.1.0"),
    ]);
    expect(server.received).toHaveLength(0);
  });
});

describe("a SQL template", () => {
  it("is sent once per combination, with quotes doubled", async () => {
    await run([
      "--sql",
      "SELECT '{day}', '{name}', {n}",
      "--param",
      "day=2024-01-31..2024-02-01",
      "--param",
      'name=["o\'x"]',
      "--param",
      "n=1,2",
    ]);
    expect(arrived().texts).toEqual(
      ["2024-01-31", "2024-02-01"].flatMap((day) => [1, 2].map((n) => `SELECT '${day}', 'o''x', ${n}`)),
    );
  });

  it("takes rows of a file, and columns of it may go unused", async () => {
    await run(["--sql", "SELECT '{day}' WHERE r = '{region}'", "--params-file", "rows.csv"]);
    expect(arrived().texts).toEqual(["SELECT '2024-01-01' WHERE r = 'eu'", "SELECT '2024-01-02' WHERE r = 'o''us'"]);
  });

  it("may lie in a file", async () => {
    await run(["--sql", "@template.sql", "--param", "n=7"]);
    expect(arrived().texts).toEqual(["SELECT 7\n"]);
  });

  it("of ten thousand queries is one request", async () => {
    await run(["--sql", "SELECT {a}, {b}", "--param", "a=1..100", "--param", "b=1..100", "--quiet"]);
    const { texts } = arrived();
    expect([texts.length, texts[0], texts.at(-1), server.received.length]).toEqual([
      10_000,
      "SELECT 1, 1",
      "SELECT 100, 100",
      1,
    ]);
  });

  it.each([
    [["--sql", "SELECT 1", "--param", "n=1"], "--param n is used nowhere"],
    [["--sql", "SELECT {n}"], "{n}, which no parameter gives"],
    [["--param", "n=1"], "are for --sql"],
    [["--sql", "SELECT {n}", "--param", "n=x;"], "only numbers may go"],
    [["--sql", "@none.sql"], "none.sql"],
    [[], "nothing to run"],
  ])("%j is refused with exit code 2, and nothing is sent", async (args, message) => {
    expect(await run(args)).toMatchObject({ code: 2, out: "", err: expect.stringContaining(message) });
    expect(server.received).toHaveLength(0);
  });
});

describe("--dry-run", () => {
  const args = [
    "--sql",
    "SELECT {n}",
    "--param",
    "n=1..7",
    "--env",
    "KEY=secret",
    "--cpus",
    "1",
    "--memory",
    "1",
    "--cloud",
    "local",
    "--dry-run",
  ];

  it("shows what would be sent, sends nothing, and shows no secrets", async () => {
    const { code, out } = await run(args);
    expect(code).toBe(0);
    expect(out).toContain("7 queries, 7 distinct plans");
    expect(out).toContain("-- n=1\nSELECT 1\n");
    expect(out).toContain("and 2 more; --json shows all");
    expect(out).not.toContain("secret");
    expect(server.received).toHaveLength(0);
  });

  it("with --json is the lines of the request", async () => {
    const { out } = await run([...args, "--json"]);
    const lines = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line).line);
    expect(lines).toEqual(["header", ...Array(7).fill("plan"), "frames"]);
    expect(out).not.toContain("secret");
  });
});

describe("--wait", () => {
  it("shows each query's result and failures under the names that they were given", async () => {
    const { io, done } = start(["--sql", "SELECT {n}", "--param", "n=5,6,7", "--wait"]);
    await eventually(() => expect(server.state.jobs.size).toBe(1));
    const { id } = [...server.state.jobs.values()][0]?.job ?? expect.fail();
    server.of(id).results.push(makeResult({ frame: 0 }), makeResult({ frame: 2, rows: 9 }));
    server.of(id).failures.push({ error: makeError(), count: 1, exampleTaskId: makeResult().taskId, frames: [1] });
    server.update(id, ended("failed", { counts: countsOf({ total: 3, succeeded: 2, failed: 1 }) }));
    expect(await done).toBe(1);
    expect(io.out().split("\n").slice(2, 5)).toEqual([
      "FRAME  QUERY  ROWS  LOCATION",
      "    0  n=5       3  /data/out/part-0.parquet",
      "    2  n=7       9  /data/out/part-0.parquet",
    ]);
    expect(io.err()).toContain("1 task failed: n=6\nColumnNotFoundError: ");
  });
});
