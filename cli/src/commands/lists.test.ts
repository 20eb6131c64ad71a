import stringWidth from "string-width";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { countsOf, ended, makeError, makeJob, makeResult, makeTask, START } from "../testing/fake-data.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { type FakeServer, startFakeServer } from "../testing/fake-server.ts";

const FIVE_MINUTES_LATER = Date.parse(START) + 300_000;

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());
const run = async (args: string[], options: Parameters<typeof fakeIo>[0] = {}) => {
  const io = fakeIo({ nowMs: FIVE_MINUTES_LATER, ...options, env: server.env });
  return { code: await runCli(io, args), out: io.out(), err: io.err() };
};

describe("pc jobs", () => {
  it("shows the newest first, with relative times", async () => {
    const older = server.addJob({ name: "old", ...ended("succeeded") });
    const newer = server.addJob({
      mode: "many",
      user: "bob",
      counts: countsOf({ total: 9, succeeded: 4, failed: 1, queued: 4 }),
    });
    const { out } = await run(["jobs"]);
    expect(out.split("\n")).toEqual([
      "ID                              NAME  STATUS     MODE    TASKS  USER    CREATED   TOOK",
      `${newer.id}        queued     many      5/9  bob   5 min ago`,
      `${older.id}  old   succeeded  single    1/1  ann   5 min ago  1.5 s`,
      "",
    ]);
  });

  it.each([34, 45, 60, 79, 100])("fits a terminal of %i columns, ids and statuses always whole", async (columns) => {
    const job = server.addJob({
      name: "a name that is much too long to be shown anywhere",
      user: "somebody-with-a-name",
      ...ended("failed"),
    });
    const { out } = await run(["jobs", "--no-color"], { columns });
    for (const line of out.trimEnd().split("\n"))
      expect(stringWidth(line)).toBeLessThanOrEqual(Math.max(columns, `${job.id}  failed`.length));
    expect(out).toMatch(new RegExp(`${job.id} .*failed`));
  });

  it("passes filters on", async () => {
    const job = server.addJob({ user: "ann", labels: { team: "sales" }, ...ended("failed") });
    server.addJob({ user: "bob", ...ended("failed") });
    server.addJob({ user: "ann" });
    const { out } = await run([
      "jobs",
      "--status",
      "failed",
      "--user",
      "ann",
      "--label",
      "team=sales",
      "--mode",
      "single",
      "--quiet",
    ]);
    expect(out).toBe(`${job.id}\n`);
    expect(server.received[0]?.query).toEqual({
      status: "failed",
      user: "ann",
      label: "team:sales",
      mode: "single",
      limit: "20",
    });
  });

  it("pages: --limit, --cursor and --all", async () => {
    const ids = Array.from({ length: 2_345 }, () => server.addJob().id).reverse();
    const first = await run(["jobs", "--limit", "3", "--json"]);
    const { items, nextCursor } = JSON.parse(first.out);
    expect([items.map((job: { id: string }) => job.id), nextCursor]).toEqual([ids.slice(0, 3), "3"]);
    const second = await run(["jobs", "--limit", "2", "--cursor", nextCursor, "--quiet"]);
    expect(second.out.trim().split("\n")).toEqual(ids.slice(3, 5));
    expect((await run(["jobs", "--all", "--quiet"])).out.trim().split("\n")).toEqual(ids);
    expect((await run(["jobs"])).err).toContain("--cursor 20");
    expect((await run(["jobs", "--all", "--limit", "3"])).code).toBe(2);
  });

  it("refuses a second label, which the server would not look at", async () => {
    const { code, err } = await run(["jobs", "--label", "a=1", "--label", "b=2"]);
    expect([code, err]).toEqual([2, expect.stringContaining("Only one label can be given here.")]);
    expect(server.received).toHaveLength(0);
  });

  it("--all has no limit, and --quiet prints each page as it comes", async () => {
    const pages = 101;
    const idOf = (page: number) => (index: number) => `job_${String(page * 1_000 + index).padStart(26, "0")}`;
    const page = Array.from({ length: 1_000 }, () => makeJob());
    const io = fakeIo({ env: server.env });
    const printed: number[] = [];
    server.state.intercept = ({ query: { cursor = "0" } }) => {
      const number = Number(cursor);
      printed.push(io.out().length);
      const items = page.map((job, index) => ({ ...job, id: idOf(number)(index) }));
      return { json: { items, nextCursor: number + 1 < pages ? String(number + 1) : null } };
    };
    expect(await runCli(io, ["jobs", "--all", "--quiet"])).toBe(0);
    const lineLength = `${idOf(0)(0)}\n`.length;
    expect(io.out()).toHaveLength(pages * 1_000 * lineLength);
    expect(io.out().endsWith(`${idOf(pages - 1)(999)}\n`)).toBe(true);
    expect(printed).toEqual(Array.from({ length: pages }, (_, count) => count * 1_000 * lineLength));
  });

  it("says on stderr that there are none", async () => {
    expect(await run(["jobs"])).toEqual({ code: 0, out: "", err: "no jobs\n" });
  });
});

describe("pc job", () => {
  it("shows a page about it, and what to do next", async () => {
    const job = server.addJob({
      mode: "many",
      name: "nightly",
      labels: { a: "b" },
      output: { format: "parquet", destination: "s3://b/out/", mode: "overwrite", options: {} },
      logLines: 3,
      ...ended("failed", {
        counts: countsOf({ total: 5, succeeded: 3, failed: 2 }),
        startedAt: "2026-01-02T03:04:05.250Z",
      }),
    });
    server
      .of(job.id)
      .failures.push({ error: makeError(), count: 2, exampleTaskId: makeResult().taskId, frames: [1, 4] });
    const { code, out, err } = await run(["job", job.id]);
    expect(code).toBe(0);
    for (const text of [
      `${job.id} failed: 3 of 5 tasks succeeded, 2 failed`,
      "name        nightly",
      "labels      a=b",
      "writes      parquet to s3://b/out/ (overwrite)",
      "waited      250 ms",
      "took        1.2 s",
      "(5 min ago)",
      "log         3 lines",
    ]) {
      expect(out).toContain(text);
    }
    expect(err).toContain("2 tasks failed: frame 1, frame 4\nColumnNotFoundError: unable");
    for (const hint of ["logs", "job", "retry"]) expect(err).toContain(`pc ${hint} ${job.id}`);
  });

  it("- is the newest of one's own", async () => {
    const mine = server.addJob({ user: "ann" });
    server.addJob({ user: "bob" });
    expect(JSON.parse((await run(["job", "-", "--json"])).out)).toMatchObject({ id: mine.id });
  });

  it("- without any says so", async () => {
    server.addJob({ user: "bob" });
    expect(await run(["job", "-"])).toMatchObject({ code: 2, err: expect.stringContaining("ann has none") });
  });

  it("an id that can't be one is refused here, one that is not there by the server", async () => {
    expect(await run(["job", "job_short"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("not the id of a job"),
    });
    expect(server.received).toHaveLength(0);
    expect((await run(["job", `job_${"0".repeat(26)}`])).code).toBe(4);
  });

  it("lists tasks by status, with what went wrong", async () => {
    const job = server.addJob({ mode: "many" });
    server
      .of(job.id)
      .tasks.push(
        makeTask(job.id, { frame: 0 }),
        makeTask(job.id, { frame: 1, status: "failed", attempt: 2, error: makeError({ message: "two\nlines" }) }),
      );
    const { out } = await run(["job", job.id, "--tasks", "--status", "failed"]);
    const failed = server.of(job.id).tasks[1];
    expect(out.split("\n").slice(1)).toEqual([
      `${failed?.id}      1       failed    2  1.0 s  ColumnNotFoundError: two lines`,
      "",
    ]);
    expect((await run(["job", job.id, "--tasks", "--quiet"])).out.trim().split("\n")).toHaveLength(2);
  });

  it("lists results; --quiet gives their locations", async () => {
    const job = server.addJob({ mode: "partitioned", ...ended("succeeded") });
    server.of(job.id).results.push(makeResult({ key: { day: "1" }, locations: ["/a", "/b"] }));
    expect((await run(["job", job.id, "--results"])).out).toBe("KEY    ROWS  LOCATION\nday=1     3  /a (and 1 more)\n");
    expect((await run(["job", job.id, "--results", "--quiet"])).out).toBe("/a\n/b\n");
    expect(JSON.parse((await run(["job", job.id, "--results", "--json"])).out).items[0]).toMatchObject({
      key: { day: "1" },
    });
  });

  it("shows failures, grouped", async () => {
    const job = server.addJob({ mode: "many", ...ended("failed", { counts: countsOf({ total: 2, failed: 2 }) }) });
    server
      .of(job.id)
      .failures.push({ error: makeError(), count: 2, exampleTaskId: makeResult().taskId, frames: [0, 1] });
    expect(JSON.parse((await run(["job", job.id, "--failures", "--json"])).out).groups[0].count).toBe(2);
    expect((await run(["job", job.id, "--failures"])).err).toContain("2 tasks failed");
  });

  it("views exclude each other", async () => {
    const id = `job_${"0".repeat(26)}`;
    expect((await run(["job", id, "--tasks", "--results"])).code).toBe(2);
    expect((await run(["job", id, "--status", "failed"])).err).toContain("--status is for --tasks");
  });
});

describe("pc clusters", () => {
  it("lists them", async () => {
    const cluster = server.addCluster({
      name: "big",
      status: "ready",
      shape: { cloud: "local", cpus: 8, memoryGiB: 16, gpus: 0, clusterSize: 4 },
      nodes: { ready: 3, total: 4 },
      activeJobs: 2,
    });
    const { out } = await run(["clusters"]);
    expect(out.split("\n")[1]).toBe(`${cluster.id}  big   ready     3/4  8 cores, 16 GiB  local     2  5 min ago`);
    expect((await run(["clusters", "list", "--quiet"])).out).toBe(`${cluster.id}\n`);
    expect((await run(["clusters", "show", cluster.id])).out).toContain("3 of 4 ready, each 8 cores, 16 GiB, on local");
  });

  it("start: what is not said of the machines is the workspace's default; the id goes to stdout", async () => {
    const { code, out } = await run(["clusters", "start", "--cpus", "8", "--name", "n"]);
    const [cluster] = [...server.state.clusters.values()];
    expect([code, out]).toEqual([0, `${cluster?.id}\n`]);
    expect(cluster).toMatchObject({ name: "n", shape: { cpus: 8, memoryGiB: 4 } });
  });

  it("start --wait ends when it is ready, and --wait-timeout before", async () => {
    const { code, out } = await run(["clusters", "start", "--wait", "--json"]);
    expect([code, JSON.parse(out).status]).toEqual([0, "ready"]);
    server.state.intercept = ({ path }) =>
      path.endsWith("/wait") ? { json: [...server.state.clusters.values()].at(-1) } : undefined;
    expect(await run(["clusters", "start", "--wait-timeout", "50ms"])).toMatchObject({
      code: 6,
      err: expect.stringContaining("pc clusters stop"),
    });
  });

  it("start --wait-timeout ends in time when the answer never comes", async () => {
    server.state.intercept = ({ path }) => (path.endsWith("/wait") ? "swallow" : undefined);
    const { code, out } = await run(["clusters", "start", "--wait-timeout", "1s"]);
    expect([code, out]).toEqual([6, `${[...server.state.clusters.keys()][0]}\n`]);
  });

  it("stop takes many", async () => {
    const ids = [server.addCluster().id, server.addCluster().id];
    expect(await run(["clusters", "stop", ...ids])).toEqual({
      code: 0,
      out: ids.map((id) => `${id} stopping\n`).join(""),
      err: "",
    });
    expect((await run(["clusters", "stop", "-"])).code).toBe(2);
  });
});
