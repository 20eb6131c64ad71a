import { setTimeout as sleep } from "node:timers/promises";
import { mintId, type TaskId } from "@frazil/contracts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { eventually } from "../testing/eventually.ts";
import { ended, makeLine, makeResult } from "../testing/fake-data.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { type FakeServer, startFakeServer } from "../testing/fake-server.ts";

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());
const start = (args: string[], options: Parameters<typeof fakeIo>[0] = {}) => {
  const io = fakeIo({ ...options, env: server.env });
  return { io, done: runCli(io, args) };
};
const run = async (args: string[], options?: Parameters<typeof fakeIo>[0]) => {
  const { io, done } = start(args, options);
  return { code: await done, out: io.out(), err: io.err() };
};

describe("pc logs", () => {
  it("shows all lines, over pages", async () => {
    const job = server.addJob();
    const lines = Array.from({ length: 2_500 }, (_, index) => makeLine(index + 1, `line ${index}`));
    server.of(job.id).logs.push(...lines);
    const { code, out } = await run(["logs", job.id]);
    expect([code, out]).toEqual([0, lines.map(({ text }) => `${text}\n`).join("")]);
  });

  it("of many tasks says which task wrote a line, and --task picks one", async () => {
    const job = server.addJob({ mode: "many" });
    const [one, two] = [mintId("task"), mintId("task")] as [TaskId, TaskId];
    server.of(job.id).logs.push(makeLine(1, "a", { taskId: one }), makeLine(2, "b", { taskId: two }), makeLine(3, "c"));
    expect((await run(["logs", job.id])).out).toBe(`${one.slice(-6)} a\n${two.slice(-6)} b\njob c\n`);
    expect((await run(["logs", job.id, "--task", two, "--timestamps"])).out).toBe("2026-01-02T03:04:05.000Z b\n");
  });

  it("with --json is NDJSON of the lines as they came", async () => {
    const job = server.addJob();
    server.of(job.id).logs.push(makeLine(1, "a"), makeLine(2, "b"));
    const { out } = await run(["logs", job.id, "--json"]);
    expect(
      out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual(server.of(job.id).logs);
  });

  it("can't drive a terminal, and goes as it is into a pipe", async () => {
    const job = server.addJob();
    server.of(job.id).logs.push(makeLine(1, "\u001b[2J\u001b[31mred\u0007"));
    expect((await run(["logs", job.id, "--no-color"], { columns: 80 })).out).toBe("red\n");
    expect((await run(["logs", job.id])).out).toBe("\u001b[2J\u001b[31mred\u0007\n");
  });

  it("-f goes on to the end, and after a broken connection from the last line on", async () => {
    const job = server.addJob();
    const { logs } = server.of(job.id);
    logs.push(makeLine(1, "one"));
    const { io, done } = start(["logs", "-f", job.id]);
    await eventually(() => expect(io.out()).toBe("one\n"));
    server.breakStreams();
    logs.push(makeLine(2, "two"));
    await eventually(() => expect(io.out()).toBe("one\ntwo\n"));
    logs.push(makeLine(3, "three"));
    server.update(job.id, ended("failed"));
    expect(await done).toBe(0);
    expect(io.out()).toBe("one\ntwo\nthree\n");
    expect(server.to("GET", `/v1/jobs/${job.id}/events`).map(({ query }) => query.after)).toEqual([undefined, "1"]);
  });

  it("-f of a stream that the server ends early asks for the rest", async () => {
    const job = server.addJob(ended("succeeded"));
    const body = `event: log\ndata: ${JSON.stringify(makeLine(1, "one"))}\n\n`;
    let left = 1;
    server.state.intercept = ({ path }) =>
      path.endsWith("/events") && left-- > 0
        ? { text: body, headers: { "content-type": "text/event-stream" } }
        : undefined;
    server.of(job.id).logs.push(makeLine(1, "one"), makeLine(2, "two"));
    expect(await run(["logs", "-f", job.id])).toEqual({ code: 0, out: "one\ntwo\n", err: "" });
  });

  it("-f of a job that is not there is refused at once", async () => {
    expect((await run(["logs", "-f", `job_${"0".repeat(26)}`])).code).toBe(4);
  });

  it("-f stops at Ctrl-C", async () => {
    const job = server.addJob();
    server.of(job.id).logs.push(makeLine(1, "one"));
    const { io, done } = start(["logs", "-f", job.id]);
    await eventually(() => expect(io.out()).toBe("one\n"));
    io.interrupt();
    expect(await done).toBe(130);
    expect(io.err()).toContain(`${job.id} goes on`);
  });
});

describe("pc wait", () => {
  it("of several shows each, and a failure decides the exit code", async () => {
    const jobs = [server.addJob(ended("succeeded")), server.addJob(ended("cancelled")), server.addJob(ended("failed"))];
    const ids = jobs.map(({ id }) => id);
    const { code, out } = await run(["wait", ...ids, "--json"]);
    expect([
      code,
      out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line).id),
    ]).toEqual([1, ids]);
    expect((await run(["wait", ...ids.slice(0, 2)])).code).toBe(5);
    expect((await run(["wait", ids[0] ?? "", "--quiet"])).code).toBe(0);
  });

  it("has one deadline for all", async () => {
    const ids = [server.addJob().id, server.addJob().id];
    const { code, out, err } = await run(["wait", ...ids, "--timeout", "1s"]);
    expect([code, out]).toEqual([6, `${ids[0]}\n`]);
    expect(err).toContain("it goes on");
  });

  it.each([
    ["the wait", /\/wait$/, true],
    ["the first look", /\/jobs\/job_\w+$/, false],
  ])("ends in time when the answer to %s never comes", async (_name, swallowed, seen) => {
    const { id } = server.addJob();
    server.state.intercept = ({ path }) => (swallowed.test(path) ? "swallow" : undefined);
    const { code, out, err } = await run(["wait", id, "--timeout", "1s"]);
    expect([code, out]).toEqual([6, seen ? `${id}\n` : ""]);
    expect(err).toContain("it goes on");
  });

  it("ends with 6 when the server is away at the deadline", async () => {
    const { id } = server.addJob();
    server.state.intercept = ({ path }) => (path.endsWith("/wait") ? "drop" : undefined);
    expect((await run(["wait", id, "--timeout", "200ms"])).code).toBe(6);
  });

  it.each(["--follow", "--quiet"])("%s takes a deadline further away than a timer can be set", async (option) => {
    const { id } = server.addJob();
    const { done } = start(["wait", id, option, "--timeout", "30d"]);
    await eventually(() => expect(server.received.length).toBeGreaterThan(1));
    await sleep(50);
    server.update(id, ended("succeeded"));
    expect(await done).toBe(0);
  });

  it("shows a bar on a terminal, and takes it away", async () => {
    const job = server.addJob({ phase: "starting 1 node" });
    const { io, done } = start(["wait", job.id], { columns: 80 });
    await eventually(() => expect(io.err()).toContain("starting 1 node"));
    server.update(job.id, ended("succeeded", { result: makeResult() }));
    expect(await done).toBe(0);
    expect(io.err().endsWith("\u001b[?25h") || io.err().includes("\u001b[?25h")).toBe(true);
    expect(io.out()).toContain("succeeded");
  });
});

describe("pc cancel", () => {
  it("takes many ids, and says how each stands now", async () => {
    const ids = [server.addJob().id, server.addJob(ended("succeeded")).id];
    expect(await run(["cancel", ...ids])).toEqual({
      code: 0,
      out: `${ids[0]} cancelled\n${ids[1]} succeeded\n`,
      err: "",
    });
  });
});

describe("pc retry", () => {
  it("prints the id of the new job", async () => {
    const old = server.addJob(ended("failed"));
    const { code, out } = await run(["retry", old.id, "--json"]);
    expect([code, JSON.parse(out).retryOf]).toEqual([0, old.id]);
    server.state.onSubmit = () => ended("succeeded");
    expect(await run(["retry", old.id, "--wait"])).toMatchObject({
      code: 0,
      out: expect.stringContaining("succeeded in 1.5 s"),
    });
  });

  it("of a job that has not ended is refused by the server", async () => {
    expect(await run(["retry", server.addJob().id])).toMatchObject({ code: 4, err: "error: The job has not ended.\n" });
  });

  it("is sent again with the same key when the answer is lost, so that the server can tell", async () => {
    const old = server.addJob(ended("failed"));
    let drops = 1;
    server.state.intercept = ({ path }) => (path.endsWith("/retry") && drops-- > 0 ? "drop" : undefined);
    expect((await run(["retry", old.id])).code).toBe(0);
    const keys = server.to("POST", `/v1/jobs/${old.id}/retry`).map((request) => request.headers["idempotency-key"]);
    expect(keys).toEqual([expect.stringMatching(/./), keys[0]]);
  });
});
