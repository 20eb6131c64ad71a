import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Job } from "@frazil/contracts";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../harness/control-plane.ts";
import { type Answerer, letWork } from "../harness/fake-node.ts";
import { succeeded } from "../harness/submissions.ts";
import { startTcpProxy, type TcpProxy } from "../harness/tcp-proxy.ts";
import { waitUntil } from "../harness/wait-until.ts";
import { type NodeOfPlane, startNodeOfPlane } from "./agent/node-of-plane.ts";

/** Longer than the weather lasts: whatever is lost by a lapsed lease instead is found by its second attempt. */
const LEASE_TTL_MS = 20_000;
const PROMPT_MS = 25_000;
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const PYTHON = here("../../.venv/bin/python");
const CLI = here("../../cli/src/main.ts");

let test: TestControlPlane;
let proxy: TcpProxy;
beforeAll(async () => {
  test = await startTestControlPlane({ leaseTtlMs: LEASE_TTL_MS });
});
afterAll(() => test.close());
beforeEach(async () => {
  proxy = await startTcpProxy(test.address);
});
afterEach(() => proxy.close());

/** The ends of a job's tasks as the database has them: each has one result, and how many attempts it took. */
async function endsOf(jobId: string) {
  const rows = await test.sql<{ attempt: number; results: number; ends: number }>(
    `SELECT t.attempt, (SELECT count(*)::int FROM results r WHERE r.task_id = t.id) AS results,
        (SELECT count(*)::int FROM events e WHERE e.task_id = t.id AND e.event IN ('finish', 'fail')) AS ends
      FROM tasks t WHERE t.job_id = $1`,
    [jobId],
  );
  return rows;
}
const ONCE = { attempt: 1, results: 1, ends: 1 };

describe("a node behind a network", () => {
  let node: NodeOfPlane;
  /** It knows the control plane by the proxy's address only. */
  beforeEach(async () => {
    node = await startNodeOfPlane(test, proxy.address);
  });
  afterEach(() => node.stop());

  const ended = (job: Job) =>
    waitUntil(
      `${job.id} ends`,
      async () => {
        const now = await test.api.job(job.id);
        return now.finishedAt !== null && now;
      },
      PROMPT_MS,
    );
  const filesOf = ({ nodeDir }: NodeOfPlane) =>
    [join(nodeDir, "begun"), join(nodeDir, "gate"), join(nodeDir, "mark")] as const;
  /** The file is made by the engine's first step: that a task runs is told to the control plane a moment later only. */
  const isBegun = (begun: string) => waitUntil("the engine is at it", () => existsSync(begun), PROMPT_MS);
  /** Attempts that the agent has answered for; it keeps the answers on disk while they can't be delivered. */
  const isFinishedBehind = (mark: string) => waitUntil("the engine is done", () => existsSync(mark), PROMPT_MS);

  it("that is cut works on, and delivers what it finished meanwhile, once", async () => {
    const [begun, gate, mark] = filesOf(node);
    const job = await node.submit([
      ["touch", begun],
      ["wait-for", gate],
      ["touch", mark],
    ]);
    await isBegun(begun);
    proxy.set({ isCut: true });
    writeFileSync(gate, "");
    await isFinishedBehind(mark);
    expect((await test.api.job(job.id)).status).toBe("running");
    proxy.set({});
    expect((await ended(job)).status).toBe("succeeded");
    expect(await endsOf(job.id)).toEqual([ONCE]);
  });

  it("that swallows what is sent, and says nothing, is left for another connection", async () => {
    const [begun, gate, mark] = filesOf(node);
    const job = await node.submit([
      ["touch", begun],
      ["wait-for", gate],
      ["touch", mark],
    ]);
    await isBegun(begun);
    const before = proxy.connections;
    proxy.deafen();
    writeFileSync(gate, "");
    await isFinishedBehind(mark);
    // It opens another by itself, though nothing told it that this one is dead.
    await waitUntil("another connection is made", () => proxy.connections > before, PROMPT_MS);
    expect((await ended(job)).status).toBe("succeeded");
    expect(await endsOf(job.id)).toEqual([ONCE]);
  });

  it("that breaks again and again loses nothing and does nothing twice", async () => {
    const FRAMES = 60;
    const job = await node.submitMany([["linger", 30]], FRAMES);
    let breaks = 0;
    const allDone = async () => {
      const { counts } = await test.api.job(job.id);
      if (counts.succeeded < (breaks + 1) * (FRAMES / 10)) return false;
      breaks += 1;
      proxy.reset();
      return counts.succeeded === FRAMES;
    };
    await waitUntil("all are done", allDone, 2 * PROMPT_MS);
    expect(breaks).toBeGreaterThan(3);
    expect(await ended(job)).toMatchObject({ status: "succeeded", counts: { succeeded: FRAMES } });
    const ends = await endsOf(job.id);
    expect(ends.map(({ results, ends: of }) => ({ results, of }))).toEqual(
      Array.from({ length: FRAMES }, () => ({ results: 1, of: 1 })),
    );
  });

  it("that is slow holds up no heartbeat behind a megabyte of log, and loses no line", async () => {
    const LINES = 900;
    proxy.set({ delayMs: 40, bytesPerSecond: 300_000 });
    const seenAt = async () => {
      const [found] = await test.sql<{ at: string }>("SELECT seen_at::text AS at FROM nodes WHERE cluster_id = $1", [
        node.clusterId,
      ]);
      return found?.at ?? "";
    };
    const [begun, gate] = filesOf(node);
    const job = await node.submit([
      ["touch", begun],
      ["print-lines", LINES],
      ["wait-for", gate],
    ]);
    await isBegun(begun);
    const beats = new Set<string>();
    const logged = async () => {
      beats.add(await seenAt());
      return (await test.api.job(job.id)).logLines >= LINES;
    };
    await waitUntil("all lines are there", logged, PROMPT_MS);
    // Heartbeats come every 100 ms. The lines alone take three seconds of the way: behind them, one would come with the last line.
    expect(beats.size).toBeGreaterThan(5);
    writeFileSync(gate, "");
    expect((await ended(job)).status).toBe("succeeded");
    expect(await endsOf(job.id)).toEqual([ONCE]);
  });
});

describe("a client behind a network", () => {
  let warm: WarmCluster;
  let work: ReturnType<typeof letWork>;
  let answer: Answerer;
  beforeEach(async () => {
    answer = () => succeeded();
    warm = await test.warmCluster();
    work = letWork(warm.node, (task, leased) => answer(task, leased));
  });
  afterEach(() => work.stop());

  const environment = () => ({
    ...process.env,
    FRAZIL_ADDRESS: proxy.address,
    FRAZIL_TOKEN: test.api.token,
    FRAZIL_PROGRESS: "0",
  });
  /** Runs a program to its end. */
  function run(command: string, args: readonly string[]) {
    const child = spawn(command, args, { env: environment(), stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    let err = "";
    child.stdout.on("data", (data) => {
      out += data;
    });
    child.stderr.on("data", (data) => {
      err += data;
    });
    const ended = new Promise<{ code: number | null; out: string; err: string }>((resolve) =>
      child.once("exit", (code) => resolve({ code, out, err })),
    );
    return { ended, output: () => out };
  }
  const python = (code: string) => run(PYTHON, ["-c", code]);
  const keepWaiting = () => {
    let release = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    answer = async () => {
      await gate;
      return succeeded();
    };
    return () => release();
  };

  const WAITERS: Record<string, (jobId: string) => ReturnType<typeof run>> = {
    "the CLI": (jobId) => run(process.execPath, [CLI, "wait", jobId, "--json"]),
    "the CLI, which follows": (jobId) => run(process.execPath, [CLI, "wait", jobId, "--follow", "--json"]),
    "the Python client": (jobId) =>
      python(`import frazil as pc
handle = pc.job("${jobId}")
print("waits", flush=True)
handle.await_result()
print(handle.status())`),
  };

  it.each(Object.entries(WAITERS))("waits on while it is cut, and hears the end: %s", async (_, start) => {
    const release = keepWaiting();
    const job = await warm.submit();
    const waiter = start(job.id);
    await waitUntil("it waits", () => waits(job.id), PROMPT_MS);
    proxy.set({ isCut: true });
    release();
    await test.api.ended(job.id);
    proxy.set({});
    const { code, out, err } = await waiter.ended;
    expect({ code, err }).toMatchObject({ code: 0 });
    expect(out).toContain("succeeded");
  });

  /** A request that is held back for this job is under way. */
  const waits = (jobId: string) => /(wait|events)\b/.test(proxy.heard().split(`/v1/jobs/${jobId}/`)[1] ?? "");

  it("submits once, however often the connection breaks before the answer is there", async () => {
    // An answer takes long enough for the connection to be broken before it is there.
    proxy.set({ delayMs: 500 });
    const submitter = python(`import polars as pl, frazil as pc
handle = pc.spawn_many([pl.LazyFrame({"a": [n]}) for n in range(50)], context=pc.ComputeContext.connect("${warm.clusterId}"), name="breaks")
print(handle.id)`);
    let breaks = 0;
    const cutThrice = () => {
      const sent = proxy.heard().split("POST /v1/jobs ").length - 1;
      if (sent > breaks) {
        breaks += 1;
        proxy.reset();
      }
      return breaks === 3;
    };
    await waitUntil("three submissions were cut", cutThrice, PROMPT_MS);
    proxy.set({});
    const { code, out, err } = await submitter.ended;
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const jobs = await test.sql<{ id: string }>("SELECT id FROM jobs WHERE name = 'breaks'");
    expect(jobs.map((job) => job.id)).toEqual([out.trim()]);
    expect((await test.api.ended(out.trim())).counts).toMatchObject({ total: 50, succeeded: 50 });
  });

  it("submits and hears the end over a network that is slow", async () => {
    proxy.set({ delayMs: 60, bytesPerSecond: 100_000 });
    const submitter = python(`import polars as pl, frazil as pc
query = pl.LazyFrame({"a": list(range(20_000))}).remote(pc.ComputeContext.connect("${warm.clusterId}"), name="slow")
query.write_parquet("/nowhere/").await_result()`);
    const { code, err } = await submitter.ended;
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(await test.sql("SELECT status FROM jobs WHERE name = 'slow'")).toEqual([{ status: "succeeded" }]);
  });
});
