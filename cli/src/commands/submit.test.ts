import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Job, SubmitJob } from "@frazil/contracts";
import { tableFromArrays, tableToIPC } from "@uwdata/flechette";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { eventually } from "../testing/eventually.ts";
import { countsOf, ended, makeError, makeLine, makeResult } from "../testing/fake-data.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { pickleOf, planOf } from "../testing/fake-plans.ts";
import { type FakeServer, problemAnswer, startFakeServer } from "../testing/fake-server.ts";
import { noPython, PYTHON } from "../testing/python.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-submit-"));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, "plan.bin"), planOf("2.0.0", pickleOf(12)));
writeFileSync(join(folder, "query.sql"), "SELECT 1 AS x\n");
writeFileSync(join(folder, "etl.py"), "import polars as pl\ndaily = pl.LazyFrame({'d': [1]})\nother = daily\n");

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());

const start = (args: string[], options: Parameters<typeof fakeIo>[0] = {}) => {
  const io = fakeIo({ cwd: folder, ...options, env: { ...server.env, FRAZIL_PYTHON: PYTHON, ...options.env } });
  return { io, done: runCli(io, ["submit", ...args]) };
};
const run = async (args: string[], options?: Parameters<typeof fakeIo>[0]) => {
  const { io, done } = start(args, options);
  return { code: await done, out: io.out(), err: io.err() };
};
const submitted = () => server.to("POST", "/v1/jobs").map(({ body }) => body as SubmitJob);
const onlyJob = (): Job => [...server.state.jobs.values()][0]?.job ?? expect.fail("no job was submitted");

describe("what is sent", () => {
  it("of SQL text: the text, the directory, and no plan's release", async () => {
    const { code, out, err } = await run(["SELECT * FROM read_parquet('x.parquet')"]);
    expect(submitted()[0]).toMatchObject({
      plan: { kind: "sql", text: "SELECT * FROM read_parquet('x.parquet')" },
      spec: { client: { cwd: folder, hasPython: false }, context: null, output: { destination: null } },
    });
    expect([code, out]).toEqual([0, `${onlyJob().id}\n`]);
    expect(err).toContain(`pc wait ${onlyJob().id}`);
  });

  it("of a file of SQL, of stdin, and of a saved plan", async () => {
    await run(["query.sql"]);
    await run(["-"], { stdin: "SELECT 2" });
    await run(["plan.bin"]);
    const [file, stdin, plan] = submitted();
    expect(file?.plan).toEqual({ kind: "sql", text: "SELECT 1 AS x\n" });
    expect(stdin?.plan).toEqual({ kind: "sql", text: "SELECT 2" });
    expect(plan?.plan).toEqual({ kind: "dsl", data: planOf("2.0.0", pickleOf(12)).toString("base64") });
    expect(plan?.spec.client).toMatchObject({ polars: "2.0.0", python: "3.12", hasPython: true });
  });

  it.skipIf(noPython)("of a frame in a Python file, with a key expression", async () => {
    await run([
      "etl.py:daily",
      "--partition-by",
      "day",
      "--partition-by",
      'year=pl.col("d") // 365',
      "--max-keys",
      "9",
    ]);
    const [{ plan, spec }] = submitted() as [SubmitJob];
    expect(plan.kind === "dsl" && Buffer.from(plan.data, "base64").subarray(0, 11).toString()).toBe("DSL_VERSION");
    expect(spec.partitionBy).toEqual({
      keys: [
        { name: "day", expr: null },
        { name: "year", expr: expect.stringMatching(/^[A-Za-z0-9+/]+=*$/) },
      ],
      maxKeys: 9,
    });
  });

  it("holds every option", async () => {
    const options =
      "--dst out/ --format csv --mode overwrite --engine streaming --on-failure cancel --priority 80 --timeout 10m --retries 2 --seed 5 --name n --label a=b --label c=d";
    const machines =
      "--cpus 8 --memory 16GiB --cluster-size 3 --gpus 1 --cloud local --idle-timeout 5m --package numpy>=2 --env A=1 --env HERE";
    await run(
      ["query.sql", ...options.split(" "), ...machines.split(" "), "--polars", "2.0.0", "--python-version", "3.10"],
      { env: { HERE: "there" } },
    );
    expect(submitted()[0]?.spec).toMatchObject({
      output: { destination: join(folder, "out/"), format: "csv", mode: "overwrite" },
      engine: "streaming",
      onFailure: "cancel",
      priority: 80,
      timeoutMs: 600_000,
      attemptsMax: 3,
      seed: 5,
      name: "n",
      labels: { a: "b", c: "d" },
      context: {
        cpus: 8,
        memoryGiB: 16,
        clusterSize: 3,
        gpus: 1,
        cloud: "local",
        idleTimeoutSeconds: 300,
        packages: ["numpy>=2"],
        env: { A: "1", HERE: "there" },
      },
      client: { polars: "2.0.0", python: "3.10" },
    });
    expect(server.to("GET", "/v1/me")).toHaveLength(0);
  });

  it("goes under the idempotency key that was given, else under a new one each time", async () => {
    await run(["query.sql", "--idempotency-key", "mine"]);
    await run(["query.sql"]);
    await run(["query.sql"]);
    const keys = server.to("POST", "/v1/jobs").map(({ headers }) => headers["idempotency-key"]);
    expect([keys[0], new Set(keys).size]).toEqual(["mine", 3]);
  });
});

describe("what is printed", () => {
  it("is the job with --json, its id alone with --quiet", async () => {
    expect(JSON.parse((await run(["query.sql", "--json"])).out)).toEqual(onlyJob());
    const { out, err } = await run(["query.sql", "--quiet"]);
    expect([out, err]).toEqual([expect.stringMatching(/^job_\w{26}\n$/), ""]);
  });

  it("is the refusal of the server, with exit code 4", async () => {
    server.state.intercept = () => problemAnswer("unsupported_polars", "No engine runs Polars 0.1.");
    expect(await run(["query.sql"])).toEqual({ code: 4, out: "", err: "error: No engine runs Polars 0.1.\n" });
  });

  it.each([
    [["missing.sql"], "there is no file missing.sql"],
    [["plan.bin", "--mode", "append"], "--mode is for --dst"],
    [["query.sql", "--partition-by", "a", "--partition-by", "a"], "given twice"],
    [["query.sql", "--memory", "lots"], "16GiB"],
  ])("%j is refused with exit code 2, and nothing is sent", async (args, message) => {
    expect(await run(args)).toEqual({ code: 2, out: "", err: expect.stringContaining(message) });
    expect(server.received).toHaveLength(0);
  });
});

describe("--wait", () => {
  const head = Buffer.from(
    tableToIPC(tableFromArrays({ region: ["eu", "us"], total: [5, 7] }), { format: "file" }) as Uint8Array,
  ).toString("base64");

  it("needs one request where the query is over at once, and shows the first rows", async () => {
    server.state.onSubmit = () => ended("succeeded", { result: makeResult({ head, rows: 2 }) });
    const { code, out } = await run(["query.sql", "--wait"]);
    expect(server.received.map(({ method, path }) => `${method} ${path}`)).toEqual(["POST /v1/jobs"]);
    expect(out.split("\n")).toEqual([
      `${onlyJob().id} succeeded in 1.5 s`,
      "",
      "region  total",
      "str     i64",
      "eu      5",
      "us      7",
      "2 rows, 2 columns",
      "/data/out/part-0.parquet",
      "",
    ]);
    expect(code).toBe(0);
  });

  it("shows the schema where the rows can't be", async () => {
    server.state.onSubmit = () => ended("succeeded", { result: makeResult() });
    const { out } = await run(["query.sql", "--wait"]);
    expect(out).toContain("COLUMN  TYPE\nregion  String\ntotal   Int64\n3 rows, 2 columns\n/data/out/part-0.parquet\n");
  });

  it("goes on asking until the job has ended", async () => {
    const { io, done } = start(["query.sql", "--wait", "--json"]);
    await eventually(() => expect(server.state.jobs.size).toBe(1));
    const { id } = onlyJob();
    await eventually(() => expect(server.to("GET", `/v1/jobs/${id}/wait`)).toHaveLength(1));
    server.update(id, { status: "running" });
    await eventually(() => expect(server.to("GET", `/v1/jobs/${id}/wait`)).toHaveLength(2));
    server.update(id, ended("succeeded", { result: makeResult() }));
    expect(await done).toBe(0);
    expect(JSON.parse(io.out())).toMatchObject({ id, status: "succeeded", result: { rows: 3 } });
    expect(server.to("GET", `/v1/jobs/${id}/wait`).map(({ query }) => query.revision)).toEqual(["1", "2"]);
  });

  it("of a failed query shows the user's traceback once, with exit code 1", async () => {
    const traceback =
      'Traceback (most recent call last):\n  File "etl.py", line 3, in f\nColumnNotFoundError: unable to find column "nope"';
    server.state.onSubmit = () => ended("failed", { error: makeError({ traceback, hint: "look at the schema" }) });
    const { code, out, err } = await run(["query.sql", "--wait"]);
    expect([code, out]).toEqual([1, `${onlyJob().id} failed in 1.5 s\n`]);
    expect(err.trim()).toBe(`${traceback}\nhint: look at the schema`);
  });

  it("of a cancelled one has exit code 5", async () => {
    server.state.onSubmit = () => ended("cancelled");
    expect((await run(["query.sql", "--wait"])).code).toBe(5);
  });

  it("of a partitioned one shows results and failures, alike ones once", async () => {
    const { io, done } = start(["query.sql", "--partition-by", "day", "--wait"]);
    await eventually(() => expect(server.state.jobs.size).toBe(1));
    const { id } = onlyJob();
    const state = server.of(id);
    state.results.push(makeResult({ key: { day: "2024-01-01" }, rows: 1200 }), makeResult({ key: { day: null } }));
    state.failures.push({ error: makeError(), count: 2, exampleTaskId: makeResult().taskId, frames: [] });
    server.update(
      id,
      ended("failed", { mode: "partitioned", counts: countsOf({ total: 4, succeeded: 2, failed: 2 }) }),
    );
    expect(await done).toBe(1);
    expect(io.out().split("\n")).toEqual([
      `${id} failed in 1.5 s: 2 of 4 tasks succeeded, 2 failed`,
      "",
      "KEY              ROWS  LOCATION",
      "day=2024-01-01  1,200  /data/out/part-0.parquet",
      "day=null            3  /data/out/part-0.parquet",
      "",
    ]);
    expect(io.err()).toMatch(
      /2 tasks failed \(one of them: task_\w+\)\nColumnNotFoundError: unable to find column "nope"\n$/,
    );
  });

  it("stops after --wait-timeout with exit code 6, and the job goes on", async () => {
    const { code, out, err } = await run(["query.sql", "--wait-timeout", "50ms", "--json"]);
    expect([code, JSON.parse(out)]).toEqual([6, onlyJob()]);
    expect(JSON.parse(err)).toMatchObject({
      code: "await_timeout",
      jobId: onlyJob().id,
      hint: expect.stringContaining("pc cancel"),
    });
    expect(onlyJob().status).toBe("queued");
  });

  it("stops at Ctrl-C with exit code 130, says that the job goes on and how to cancel it", async () => {
    const { io, done } = start(["query.sql", "--wait"]);
    await eventually(() => expect(io.err()).toContain("submitted"));
    const { id } = onlyJob();
    io.interrupt();
    expect(await done).toBe(130);
    expect(io.out()).toBe(`${id}\n`);
    expect(io.err()).toContain(
      `error: interrupted; ${id} goes on\nhint: \`pc wait ${id}\` waits for it again, \`pc cancel ${id}\` stops it\n`,
    );
    expect(io.isListening()).toBe(false);
    expect(onlyJob().status).toBe("queued");
  });

  it("survives a server that is away for a while", async () => {
    const { done } = start(["query.sql", "--wait", "--quiet"]);
    await eventually(() => expect(server.state.jobs.size).toBe(1));
    const { id } = onlyJob();
    let left = 3;
    server.state.intercept = ({ path }) => (path.endsWith("/wait") && left-- > 0 ? "drop" : undefined);
    server.update(id, { status: "running" });
    await eventually(() => expect(left).toBeLessThan(0));
    server.update(id, ended("succeeded"));
    expect(await done).toBe(0);
  });
});

describe("Ctrl-C while sending", () => {
  it("says that the job may have been accepted", async () => {
    const { io, done } = start(["query.sql", "--wait"]);
    server.state.intercept = () => {
      io.interrupt();
      return undefined;
    };
    expect(await done).toBe(130);
    expect(io.out()).toBe("");
    expect(io.err()).toContain("error: interrupted while sending; the job may have been accepted\nhint: `pc jobs");
  });
});

describe("--follow", () => {
  it("shows what the query writes on stderr, and the result on stdout", async () => {
    const { io, done } = start(["query.sql", "--follow", "--json"]);
    await eventually(() => expect(server.state.jobs.size).toBe(1));
    const { id } = onlyJob();
    server.of(id).logs.push(makeLine(1, "hello"));
    server.update(id, { status: "running" });
    await eventually(() => expect(io.err()).toContain("hello\n"));
    server.of(id).logs.push(makeLine(2, "bye", { stream: "stderr" }));
    server.update(id, ended("succeeded", { result: makeResult() }));
    expect(await done).toBe(0);
    expect(io.err()).toBe("hello\nbye\n");
    expect(JSON.parse(io.out())).toMatchObject({ id, status: "succeeded" });
  });
});
