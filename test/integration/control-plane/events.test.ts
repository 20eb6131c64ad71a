import type { Job, LogLine } from "@frazil/contracts";
import { bootstrap } from "@frazil/control-plane";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { openApi, type Page } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { readEvents, type ServerEvent } from "../../harness/events.ts";
import type { FakeNode } from "../../harness/fake-node.ts";
import { logLine, released, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

/** More than fits into what lies between the database and a reader that does not read. */
const BACKLOG_LINES = 40_000;
const LINES_PER_LOOK = 500;
const STILL_MS = 400;

let test: TestControlPlane;
let warm: WarmCluster;
let node: FakeNode;
beforeAll(async () => {
  test = await startTestControlPlane();
});
afterAll(() => test.close());
beforeEach(async () => {
  warm = await test.warmCluster();
  node = warm.node;
});

const logsOf = (id: string, query = "") => test.api.get<Page<LogLine>>(`/v1/jobs/${id}/logs?limit=1000${query}`);
const textsOf = (events: readonly ServerEvent[]) =>
  events.filter((one) => one.event === "log").map((one) => (one.data as LogLine).text);

/** All events of a stream, as they come. */
function collect(path: string, headers: Record<string, string> = {}) {
  const events: ServerEvent[] = [];
  const reading = (async () => {
    for await (const event of readEvents(test.api, path, headers)) events.push(event);
  })();
  return { events, reading };
}

describe("the event stream of a job", () => {
  it("tells every change and every line as it comes, then the end, and is over", async () => {
    const { job, task } = await warm.submitAndTake();
    const { events, reading } = collect(`/v1/jobs/${job.id}/events`);
    await waitUntil("it begins with the job", () => events.length > 0);
    expect(events[0]).toMatchObject({ event: "job", data: { id: job.id, status: "running" } });
    node.send({ type: "progress", taskId: task.taskId, attempt: 1, phase: "reading" });
    await waitUntil("it tells the phase", () => events.some((one) => (one.data as Job).phase === "reading"));
    await node.log([logLine(task, 0, "first"), logLine(task, 1, "second")]);
    await waitUntil("it tells the lines", () => textsOf(events).length === 2);
    await node.log([logLine(task, 2, "third")]);
    await node.finish(task, succeeded(5));
    await reading;
    expect(textsOf(events)).toEqual(["first", "second", "third"]);
    const revisions = events.filter((one) => one.event === "job").map((one) => (one.data as Job).revision);
    expect(revisions).toEqual([...new Set(revisions)].sort((a, b) => a - b));
    expect(events.at(-1)).toMatchObject({
      event: "end",
      data: { status: "succeeded", result: { rows: 5 }, logLines: 3 },
    });
    expect(events.filter((one) => one.event === "end")).toHaveLength(1);
  });

  it("can be taken up again behind the last line, by query or as a browser does", async () => {
    const { job, task } = await warm.submitAndTake();
    await node.log([0, 1, 2, 3].map((seq) => logLine(task, seq, `line ${seq}`)));
    await node.finish(task, succeeded());
    const whole = collect(`/v1/jobs/${job.id}/events`);
    await whole.reading;
    const second = whole.events.filter((one) => one.event === "log")[1]?.id ?? "";
    for (const again of [
      collect(`/v1/jobs/${job.id}/events?after=${second}`),
      collect(`/v1/jobs/${job.id}/events`, { "last-event-id": second }),
    ]) {
      await again.reading;
      expect(textsOf(again.events)).toEqual(["line 2", "line 3"]);
      expect(again.events.at(-1)?.event).toBe("end");
    }
  });

  it("gives all lines, however many", async () => {
    const { job, task } = await warm.submitAndTake();
    const texts = Array.from({ length: 1_234 }, (_, seq) => `line ${seq}`);
    await node.log(texts.map((text, seq) => logLine(task, seq, text)));
    await node.finish(task, succeeded());
    const { events, reading } = collect(`/v1/jobs/${job.id}/events`);
    await reading;
    expect(textsOf(events)).toEqual(texts);
  });

  it.each(["its token is revoked", "its reader is gone"])("reads no further lines once %s", async (end) => {
    const { job, task } = await warm.submitAndTake();
    await test.sql(
      `INSERT INTO logs (workspace_id, job_id, task_id, attempt, seq, stream, at, text)
        SELECT $1, $2, $3, 1, n, 'stdout', now(), repeat('x', 1900) FROM generate_series(1, $4) n`,
      [test.workspaceId, job.id, task.taskId, BACKLOG_LINES],
    );
    await node.finish(task, succeeded());
    const looks = vi.spyOn(test.plane.deps.db.pages, "pageLogs");
    const setting = { workspace: "mine", user: "shortly", token: undefined };
    const { token } = await bootstrap(test.plane.deps.pool, "/", setting);
    const gone = new AbortController();
    const stream = await fetch(`${test.address}/v1/jobs/${job.id}/events`, {
      headers: { authorization: `Bearer ${token}` },
      signal: gone.signal,
    });
    const reader = (stream.body as ReadableStream<Uint8Array>).getReader();
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toContain("event: log");
    let read = "";
    if (end === "its reader is gone") gone.abort();
    else {
      await test.sql("UPDATE api_tokens SET revoked_at = now() WHERE prefix = $1", [token.split("_")[1]]);
      await waitUntil(
        "it is refused",
        async () => (await openApi(test.address, token).request("GET", "/v1/me")).status === 401,
      );
      for (let piece = await reader.read(); !piece.done; piece = await reader.read())
        read = read.slice(-100) + Buffer.from(piece.value).toString();
    }
    let before = -1;
    const isStill = async () => {
      const isSame = looks.mock.calls.length === before;
      before = looks.mock.calls.length;
      await new Promise((resolve) => setTimeout(resolve, STILL_MS));
      return isSame;
    };
    await waitUntil("no lines are read", isStill);
    looks.mockRestore();
    expect(before).toBeGreaterThan(0);
    expect(before).toBeLessThan(BACKLOG_LINES / LINES_PER_LOOK / 2);
    // It would say that all lines were told.
    expect(read).not.toContain("event: end");
  });

  it("does not keep the control plane from closing", async () => {
    const other = await startTestControlPlane({ beside: test });
    const { job, task } = await warm.submitAndTake();
    const stream = fetch(`${other.address}/v1/jobs/${job.id}/events`, {
      headers: { authorization: `Bearer ${test.api.token}` },
    });
    expect((await stream).status).toBe(200);
    await other.close();
    await (await stream).body?.cancel().catch(() => undefined);
    await node.finish(task, released);
    await test.api.post(`/v1/jobs/${job.id}/cancel`);
  });
});

describe("a long poll", () => {
  it("answers when the job has ended, not before", async () => {
    const { job, task } = await warm.submitAndTake();
    let answered = false;
    const waiting = test.api.ended(job.id).then((done) => {
      answered = true;
      return done;
    });
    node.send({ type: "progress", taskId: task.taskId, attempt: 1, phase: "reading" });
    await waitUntil("the job has changed", async () => (await test.api.job(job.id)).phase === "reading");
    expect(answered).toBe(false);
    await node.finish(task, succeeded());
    expect((await waiting).status).toBe("succeeded");
  });

  it("answers at the next change when a revision is named, and at once when it is past", async () => {
    const { job, task } = await warm.submitAndTake();
    const { revision } = await test.api.job(job.id);
    const next = test.api.get<Job>(`/v1/jobs/${job.id}/wait?timeout=20&revision=${revision}`);
    node.send({ type: "progress", taskId: task.taskId, attempt: 1, phase: "reading" });
    const changed = await next;
    expect(changed.revision).toBeGreaterThan(revision);
    expect(changed.phase).toBe("reading");
    const past = await test.api.get<Job>(`/v1/jobs/${job.id}/wait?timeout=20&revision=${revision}`);
    expect(past.revision).toBe(changed.revision);
    await node.finish(task, succeeded());
    await test.api.ended(job.id);
  });

  it("answers with the job as it is when its time is over", async () => {
    const { job, task } = await warm.submitAndTake();
    expect((await test.api.get<Job>(`/v1/jobs/${job.id}/wait?timeout=0.05`)).status).toBe("running");
    expect((await test.api.request("GET", `/v1/jobs/${job.id}/wait?timeout=61`)).status).toBe(400);
    await node.finish(task, succeeded());
    await test.api.ended(job.id);
  });
});

describe("log lines", () => {
  it("are kept once each, whatever is sent again, in order, with what can't be kept made visible", async () => {
    const { job, task } = await warm.submitAndTake();
    const lines = ["plain", "a NUL \u0000 inside", "half \ud800 a pair", "snow ☃ and 😀"].map((text, seq) =>
      logLine(task, seq, text),
    );
    await node.log(lines.slice(0, 2));
    await node.log(lines);
    await Promise.all([1, 2, 3].map(() => node.log(lines)));
    const { items, nextCursor } = await logsOf(job.id);
    expect(items.map((line) => line.text)).toEqual([
      "plain",
      "a NUL \u2400 inside",
      "half \ufffd a pair",
      "snow ☃ and 😀",
    ]);
    expect(items[0]).toMatchObject({ taskId: task.taskId, attempt: 1, stream: "stdout", at: lines[0]?.at });
    expect((await test.api.job(job.id)).logLines).toBe(4);
    expect(await logsOf(job.id, `&cursor=${nextCursor}`)).toEqual({ items: [], nextCursor: null });
    await node.log([logLine(task, 4, "later")]);
    expect((await logsOf(job.id, `&cursor=${nextCursor}`)).items.map((line) => line.text)).toEqual(["later"]);
    expect((await logsOf(job.id, `&taskId=${task.taskId}`)).items).toHaveLength(5);
    await node.finish(task, succeeded());
    // What the node had not delivered yet when the attempt ended comes late, and is kept.
    await node.log([logLine(task, 5, "very late")]);
    expect((await logsOf(job.id)).items.at(-1)?.text).toBe("very late");
  });

  it("of an attempt are taken only from the node that had it", async () => {
    const { job, task } = await warm.submitAndTake();
    const { node: other } = await test.warmCluster();
    await other.log([logLine(task, 0, "not mine to say"), logLine({ ...task, attempt: 2 }, 0, "nor this")]);
    await node.log([logLine({ ...task, attempt: 7 }, 0, "an attempt that is not there")]);
    expect((await logsOf(job.id)).items).toEqual([]);
    await node.finish(task, succeeded());
  });

  it("get their ids in the order in which they become visible, so that a reader behind the last one misses none", async () => {
    const { job, task } = await warm.submitAndTake();
    const lastId = async () =>
      Number((await test.sql<{ last: string }>("SELECT last_value AS last FROM logs_id_seq"))[0]?.last);
    await node.log([logLine(task, 0, "before")]);
    const before = await lastId();
    const holder = await test.holdJob(job.id);
    const writing = node.log([logLine(task, 1, "waits")]);
    await waitUntil("the writer waits for the job", async () => {
      const waiting = await test.sql(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INTO logs%'",
      );
      return waiting.length > 0;
    });
    const whileWaiting = await lastId();
    await holder.release();
    await writing;
    expect(whileWaiting).toBe(before);
    expect(await lastId()).toBeGreaterThan(before);
    await node.finish(task, succeeded());
  });
});
