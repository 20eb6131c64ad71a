import { connect } from "node:net";
import type { FailureGroup, Job } from "@frazil/contracts";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { NDJSON, type Page, problemOf, readPages } from "../../harness/api.ts";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { letWork } from "../../harness/fake-node.ts";
import { failed, manyFrames, oneQuery, planBytesOf, released, specOf, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

let test: TestControlPlane;
let warm: WarmCluster;
beforeAll(async () => {
  test = await startTestControlPlane({ expectedErrors: /no space left/ });
});
afterAll(() => test.close());
beforeEach(async () => {
  warm = await test.warmCluster({ cpus: 4 });
});

const onCluster = () => ({ context: null, clusterId: warm.clusterId });
const submitFrames = (count: number, over: object = {}) =>
  test.api.submit(
    manyFrames(
      ["a plan"],
      Array.from({ length: count }, () => 0),
      { ...onCluster(), ...over },
    ),
  );

/** Cuts a text into pieces that don't respect lines. */
function streamOf(text: string, pieceBytes: number): ReadableStream<Uint8Array> {
  const bytes = Buffer.from(text);
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(new Uint8Array(bytes.subarray(at, at + pieceBytes)));
      at += pieceBytes;
    },
  });
}

describe("3,000 frames over 3 plans in one streamed request", () => {
  const FRAMES = 3_000;
  const CONTENTS = ["plan zero", "plan one", "plan two"];
  let job: Job;
  beforeAll(async () => {
    warm = await test.warmCluster({ cpus: 4 });
    const frames = Array.from({ length: FRAMES }, (_, frame) => frame % 3);
    const body = streamOf(manyFrames(CONTENTS, frames, onCluster()), 1_000);
    const path = "/v1/jobs";
    const answer = await test.api.request<Job>("POST", path, { body, headers: { "content-type": NDJSON } });
    expect(answer.status).toBe(202);
    job = answer.body;
    expect(job).toMatchObject({ mode: "many", counts: { total: FRAMES } });
    const work = letWork(warm.node, ({ frame }, { run }) => {
      const content = Buffer.from(run.plan ?? "", "base64");
      const plan = CONTENTS.findIndex((one) => planBytesOf(one).equals(content));
      return succeeded(frame ?? -1, { locations: [`/results/plan-${plan}/frame-${frame}`] });
    });
    job = await test.api.ended(job.id);
    await work.stop();
  });

  it("store 3 plans, whatever the number of frames", async () => {
    const rows = await test.sql<{ plans: number; tasks: number }>(
      "SELECT count(DISTINCT plan_id)::int AS plans, count(*)::int AS tasks FROM tasks WHERE job_id = $1",
      [job.id],
    );
    expect(rows).toEqual([{ plans: 3, tasks: FRAMES }]);
    expect(await test.sql("SELECT count(*)::int AS n FROM plans WHERE workspace_id = $1", [test.workspaceId])).toEqual([
      { n: 3 },
    ]);
  });

  it("all succeed, each once, on slots of their own", async () => {
    expect(job).toMatchObject({ status: "succeeded", error: null, result: null });
    expect(job.counts).toEqual({ total: FRAMES, queued: 0, running: 0, succeeded: FRAMES, failed: 0, cancelled: 0 });
    expect(await test.sql("SELECT DISTINCT number, status FROM attempts WHERE job_id = $1", [job.id])).toEqual([
      { number: 1, status: "succeeded" },
    ]);
  });

  it("come back in order, each from its own plan, in pages of any size", async () => {
    const results = await test.api.results(job.id);
    expect(results.map((result) => [result.frame, result.rows, result.locations[0]])).toEqual(
      Array.from({ length: FRAMES }, (_, frame) => [frame, frame, `/results/plan-${frame % 3}/frame-${frame}`]),
    );
    const path = `/v1/jobs/${job.id}/results?limit=7`;
    const first = await test.api.get<Page<{ frame: number }>>(path);
    const second = await test.api.get<Page<{ frame: number }>>(`${path}&cursor=${first.nextCursor}`);
    expect([...first.items, ...second.items].map((item) => item.frame)).toEqual([...Array(14).keys()]);
  });

  it("are listed as tasks, all or by status", async () => {
    const tasks = await test.api.tasks(job.id);
    expect(tasks.map((task) => task.frame)).toEqual([...Array(FRAMES).keys()]);
    expect(await test.api.tasks(job.id, "&status=succeeded")).toHaveLength(FRAMES);
    expect(await test.api.tasks(job.id, "&status=failed")).toEqual([]);
  });
});

describe("frames that fail", () => {
  const fate = (frame: number | null) => {
    if (frame === 3) return failed("query_failed", "no column b", false, { type: "ColumnNotFoundError" });
    if ((frame ?? 0) % 2 === 0) return failed("query_failed", "division by zero", false, { type: "ComputeError" });
    return succeeded(frame ?? 0);
  };

  it("leave the others alone, and are grouped by error", async () => {
    const { id } = await submitFrames(10);
    const work = letWork(warm.node, ({ frame }) => fate(frame));
    const done = await test.api.ended(id);
    await work.stop();
    expect(done).toMatchObject({ status: "failed", counts: { total: 10, succeeded: 4, failed: 6 } });
    expect(done.error).toMatchObject({ code: "query_failed" });
    expect(done.error?.message).toContain("6 of 10 tasks failed");
    const { groups } = await test.api.get<{ groups: FailureGroup[] }>(`/v1/jobs/${id}/failures`);
    expect(groups.map(({ error, count, frames }) => [error.type, count, frames])).toEqual([
      ["ComputeError", 5, [0, 2, 4, 6, 8]],
      ["ColumnNotFoundError", 1, [3]],
    ]);
    expect((await test.api.results(id)).map((result) => result.frame)).toEqual([1, 5, 7, 9]);
    expect((await test.api.tasks(id, "&status=failed")).map((task) => task.frame)).toEqual([0, 2, 3, 4, 6, 8]);
    // In one order, whatever became of them, also where a page ends between two of different statuses.
    const path = `/v1/jobs/${id}/tasks?limit=3`;
    const pages: Page<{ frame: number; status: string }>[] = [await test.api.get(path)];
    for (let next = pages[0]?.nextCursor; next; next = pages.at(-1)?.nextCursor)
      pages.push(await test.api.get(`${path}&cursor=${next}`));
    const frames = pages.flatMap((page) => page.items.map((task) => `${task.frame} ${task.status}`));
    const expected = Array.from({ length: 10 }, (_, n) => `${n} ${n === 3 || n % 2 === 0 ? "failed" : "succeeded"}`);
    expect(frames).toEqual(expected);
  });

  it("are grouped whatever their tracebacks say: the most frequent kinds, each with its first frames and the first error", async () => {
    const FRAMES = 200;
    /** The first 60 kinds befall one or two frames each, and the last one all others. */
    const kindOf = (frame: number) => (frame < 90 ? frame % 60 : 60);
    const errorOf = (frame: number) =>
      failed("user_code_failed", `kind ${kindOf(frame)}`, false, {
        type: "ValueError",
        traceback: `line ${frame}\n`.repeat(200),
      });
    const { id } = await submitFrames(FRAMES);
    const work = letWork(warm.node, ({ frame }) => errorOf(frame ?? -1));
    await test.api.ended(id);
    await work.stop();
    const byKind = Map.groupBy(Array(FRAMES).keys(), kindOf);
    // Kinds are met in the order of their numbers, but for their frequency.
    const expected = [...byKind].sort(([, one], [, other]) => other.length - one.length).slice(0, 50);
    const { groups } = await test.api.get<{ groups: FailureGroup[] }>(`/v1/jobs/${id}/failures`);
    expect(groups.map(({ error, count, frames }) => [error.message, count, frames])).toEqual(
      expected.map(([kind, frames]) => [`kind ${kind}`, frames.length, frames.slice(0, 20)]),
    );
    for (const { error, frames, exampleTaskId } of groups) {
      expect(error.traceback?.split("\n")[0]).toBe(`line ${frames[0]}`);
      expect(await test.sql("SELECT frame FROM tasks WHERE id = $1", [exampleTaskId])).toEqual([{ frame: frames[0] }]);
    }
  });

  it("are run again in a new job that is linked to the first, which stays as it is", async () => {
    const { id } = await submitFrames(6);
    const failing = letWork(warm.node, ({ frame }) => fate(frame));
    const first = await test.api.ended(id);
    await failing.stop();
    const retry = await test.api.post<Job>(`/v1/jobs/${id}/retry`);
    expect(retry).toMatchObject({ retryOf: id, mode: "many", counts: { total: 4 } });
    expect(retry.id).not.toBe(id);
    const work = letWork(warm.node, ({ frame }) => succeeded(100 + (frame ?? 0)));
    const done = await test.api.ended(retry.id);
    await work.stop();
    expect(done).toMatchObject({ status: "succeeded", counts: { total: 4, succeeded: 4 } });
    const results = await test.api.results(retry.id);
    expect(results.map((result) => [result.frame, result.rows])).toEqual(
      [0, 2, 3, 4].map((frame) => [frame, 100 + frame]),
    );
    expect(await test.api.job(id)).toEqual(first);
    expect(problemOf(await test.api.request("POST", `/v1/jobs/${retry.id}/retry`))).toMatchObject({
      code: "conflict",
      detail: `Every task of job ${retry.id} succeeded; there is nothing to retry.`,
    });
  });

  it("are run again though there are very many, those that were cancelled too: each in its place, with its plan", async () => {
    const FRAMES = 20_000;
    const plans = ["plan zero", "plan one", "plan two"];
    const frames = Array.from({ length: FRAMES }, (_, frame) => frame % 3);
    const { id } = await test.api.submit(manyFrames(plans, frames, onCluster()));
    const { task } = await warm.node.takeRun();
    await warm.node.finish(task, fate(3));
    await test.api.post(`/v1/jobs/${id}/cancel`);
    expect((await test.api.ended(id)).counts).toMatchObject({ failed: 1, cancelled: FRAMES - 1 });
    // Some of both, also where one batch ends.
    await test.sql("UPDATE tasks SET status = 'failed' WHERE job_id = $1 AND ordinal % 7 = 0", [id]);
    await test.sql("UPDATE tasks SET status = 'succeeded' WHERE job_id = $1 AND ordinal % 1000 = 5", [id]);
    const retry = await test.api.post<Job>(`/v1/jobs/${id}/retry`);
    expect(retry.counts.total).toBe(FRAMES - FRAMES / 1000);
    const rowsOf = (jobId: string, condition: string) =>
      test.sql<object>(`SELECT ordinal, frame, plan_id FROM tasks WHERE job_id = $1 ${condition} ORDER BY ordinal`, [
        jobId,
      ]);
    expect(await rowsOf(retry.id, "")).toEqual(await rowsOf(id, "AND ordinal % 1000 <> 5"));
    await test.api.post(`/v1/jobs/${retry.id}/cancel`);
  });

  it("can't be retried while the job still runs", async () => {
    const { id } = await submitFrames(2);
    const problem = problemOf(await test.api.request("POST", `/v1/jobs/${id}/retry`));
    expect(problem).toMatchObject({ code: "conflict", status: 409 });
    await test.api.post(`/v1/jobs/${id}/cancel`);
  });

  it("stop the rest when the job says so", async () => {
    const { id } = await submitFrames(50, { onFailure: "cancel" });
    const [one, two, three] = [await warm.node.takeRun(), await warm.node.takeRun(), await warm.node.takeRun()];
    await warm.node.finish(one.task, succeeded());
    await warm.node.finish(two.task, failed("user_code_failed", "boom", false));
    const cancel = await warm.node.take("cancel");
    expect(cancel.tasks.map((task) => task.taskId)).toContain(three.task.taskId);
    const done = await test.api.ended(id);
    expect(done).toMatchObject({ status: "failed", counts: { succeeded: 1, failed: 1, cancelled: 48 } });
    expect(await warm.node.finish(three.task, succeeded())).toBe(false);
  });
});

describe("cancelling many", () => {
  it("cancels what waits and what runs, and keeps the results that are there", async () => {
    const { id } = await submitFrames(100);
    const first = await warm.node.takeRun();
    await warm.node.finish(first.task, succeeded(1));
    // The task took 12 ms: on four slots, 50 such are sent ahead for 150 ms.
    await waitUntil("the node has all that it will get", () => warm.node.waitingRuns.length === 54);
    const cancelled = await test.api.post<Job>(`/v1/jobs/${id}/cancel`);
    expect(cancelled).toMatchObject({ status: "cancelled", counts: { total: 100, succeeded: 1, cancelled: 99 } });
    const told = (await warm.node.take("cancel")).tasks;
    for (const task of told) expect(await warm.node.finish(task, released)).toBe(false);
    for (const _ of told) expect((await warm.node.takeRun()).template.jobId).toBe(id);
    expect(await test.api.results(id)).toHaveLength(1);
    // The node's slots are all free again.
    const next = await warm.submitAndTake();
    expect(await warm.node.finish(next.task, succeeded())).toBe(true);
  });

  it("ends more than one transaction takes, all of it, each task counted once", async () => {
    const { id } = await submitFrames(4_500);
    const first = await warm.node.takeRun();
    await warm.node.finish(first.task, succeeded(1));
    const cancelled = await test.api.post<Job>(`/v1/jobs/${id}/cancel`);
    expect(cancelled).toMatchObject({ status: "cancelled", counts: { total: 4_500, succeeded: 1, cancelled: 4_499 } });
    expect(
      await test.sql(
        "SELECT status, count(*)::int AS n, count(node_id)::int AS held FROM tasks WHERE job_id = $1 GROUP BY 1",
        [id],
      ),
    ).toEqual(
      expect.arrayContaining([
        { status: "cancelled", n: 4_499, held: 0 },
        { status: "succeeded", n: 1, held: 0 },
      ]),
    );
    const events =
      "SELECT sum((data ->> 'tasks')::int)::int AS tasks FROM events WHERE job_id = $1 AND event = 'cancel' AND data ? 'tasks'";
    expect(await test.sql(events, [id])).toEqual([{ tasks: 4_499 }]);
  });
});

describe("sharing a cluster", () => {
  it("runs a higher priority first", async () => {
    const low = await submitFrames(20);
    const held = await Promise.all([1, 2, 3, 4].map(() => warm.node.takeRun()));
    expect(new Set(held.map((leased) => leased.template.jobId))).toEqual(new Set([low.id]));
    const high = await submitFrames(2, { priority: 90 });
    for (const { task } of held.slice(0, 2)) await warm.node.finish(task, released);
    const next = await Promise.all([warm.node.takeRun(), warm.node.takeRun()]);
    expect(next.map((leased) => leased.template.jobId)).toEqual([high.id, high.id]);
    for (const job of [low, high]) await test.api.post(`/v1/jobs/${job.id}/cancel`);
  });

  it("considers every job of a user that has work, however many others of theirs are running", async () => {
    const nodes = 24;
    const big = await test.warmCluster({ cpus: 1, clusterSize: nodes });
    const jobs = await Promise.all(Array.from({ length: nodes }, () => big.submit()));
    const taken = await Promise.all(big.nodes.map((node) => node.takeRun()));
    expect(new Set(taken.map(({ template }) => template.jobId))).toEqual(new Set(jobs.map((job) => job.id)));
    await Promise.all(big.nodes.map((node, at) => node.finish(taken[at]?.task ?? never(), succeeded())));
    for (const job of jobs) expect((await test.api.ended(job.id)).status).toBe("succeeded");
  });
});

function never(): never {
  throw new Error("there is one for each");
}

describe("a submission that is not right", () => {
  const header = { line: "header", spec: specOf() };
  const plan = { line: "plan", number: 0, plan: { kind: "sql", text: "SELECT 1" } };
  const frames = { line: "frames", plans: [0] };
  const text = (...lines: unknown[]) => lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  const cases: [string, string, string, RegExp][] = [
    ["is empty", "", "invalid_request", /empty/],
    ["has no header", text(plan, frames), "invalid_request", /first line must be the header/],
    ["has two headers", text(header, header), "invalid_request", /Line 2 is a second header/],
    ["has a line that is not JSON", `${text(header)}{"line": "plan"\n`, "invalid_request", /Line 2 is not JSON/],
    ["has a line of no known kind", text(header, { line: "rows" }), "invalid_request", /Line 2 does not fit/],
    [
      "names a plan that is not defined",
      text(header, plan, { line: "frames", plans: [0, 7] }),
      "invalid_request",
      /plan 7/,
    ],
    ["has no frame", text(header, plan), "unprocessable", /no frame/],
    [
      "has a plan that is none",
      text(header, { line: "plan", number: 0, plan: { kind: "dsl", data: "bm8gcGxhbg==" } }, frames),
      "invalid_plan",
      /plan header/,
    ],
    [
      "has a header that does not fit",
      text({ line: "header", spec: { ...specOf(), priority: 1_000 } }),
      "invalid_request",
      /priority/,
    ],
    [
      "asks for a release that no engine runs",
      text({ line: "header", spec: specOf({ client: { polars: "0.20.0", python: "3.11" } }) }, plan, frames),
      "unsupported_polars",
      /No engine runs Polars 0.20.0/,
    ],
    [
      "ends in the middle of a line",
      manyFrames(["a plan"], [0, 0, 0]).slice(0, -8),
      "invalid_request",
      /Line 3 is not JSON/,
    ],
  ];

  const countJobs = async () => (await test.sql<{ n: number }>("SELECT count(*)::int AS n FROM jobs"))[0]?.n;

  it.each(cases)("is refused when it %s, and leaves nothing of a job", async (_, body, code, detail) => {
    const before = await countJobs();
    const answer = await test.api.request("POST", "/v1/jobs", { body, headers: { "content-type": NDJSON } });
    const problem = problemOf(answer);
    expect(problem.code).toBe(code);
    expect(problem.detail).toMatch(detail);
    expect(await countJobs()).toBe(before);
  });

  it("leaves nothing of a job when the connection is cut in the middle", async () => {
    const before = await countJobs();
    const body = manyFrames(["a plan that is cut"], [0, 0]);
    const cut = body.slice(0, body.indexOf('{"line":"frames"'));
    const socket = connect(Number(new URL(test.address).port), "127.0.0.1");
    const head = [
      "POST /v1/jobs HTTP/1.1",
      "host: frazil",
      `authorization: Bearer ${test.api.token}`,
      `content-type: ${NDJSON}`,
      `content-length: ${body.length}`,
      "",
      cut,
    ];
    socket.write(head.join("\r\n").replace(/\r\n(?=\{)/, "\r\n\r\n"));
    // The request is being read: its first plan may be stored by now, and that is harmless.
    await waitUntil("the request has reached the server", () => socket.bytesWritten > cut.length);
    socket.end();
    const answer = await new Promise<string>((resolve) => {
      let received = "";
      socket.on("data", (data) => {
        received += data;
      });
      socket.on("close", () => resolve(received));
      socket.on("error", () => resolve(received));
    });
    expect(answer).not.toMatch(/^HTTP\/1.1 2/);
    expect(await countJobs()).toBe(before);
    // And the server is well.
    expect((await test.api.request("GET", "/v1/me")).status).toBe(200);
  });

  it("leaves nothing of a job when writing its tasks breaks off", async () => {
    const before = await countJobs();
    await test.sql(
      `CREATE FUNCTION refuse_task() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$`,
    );
    await test.sql(
      "CREATE TRIGGER refuse_task BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.ordinal = 4000) EXECUTE FUNCTION refuse_task()",
    );
    try {
      const body = manyFrames(
        ["a plan"],
        Array.from({ length: 5_000 }, () => 0),
      );
      const submit = () =>
        test.api.request("POST", "/v1/jobs", {
          body,
          headers: { "content-type": NDJSON, "idempotency-key": "broken off" },
        });
      expect((await submit()).status).toBe(503);
      expect(await countJobs()).toBe(before);
      expect(await test.sql("SELECT count(*)::int AS n FROM tasks WHERE job_id NOT IN (SELECT id FROM jobs)")).toEqual([
        { n: 0 },
      ]);
      await test.sql("DROP TRIGGER refuse_task ON tasks");
      // Sent again it is a whole one.
      const again = await submit();
      expect(again.status).toBe(202);
      expect(
        await test.sql("SELECT count(*)::int AS n, max(ordinal)::int AS last FROM tasks WHERE job_id = $1", [
          (again.body as Job).id,
        ]),
      ).toEqual([{ n: 5_000, last: 4_999 }]);
    } finally {
      await test.sql("DROP FUNCTION refuse_task() CASCADE");
    }
  });

  it("is refused when its content type is another, or none that we know", async () => {
    const answer = await test.api.request("POST", "/v1/jobs", {
      body: manyFrames(["a plan"], [0]),
      headers: { "content-type": "text/csv" },
    });
    expect(problemOf(answer).code).toBe("unsupported_media_type");
  });

  it("is refused when it holds what no text may hold", async () => {
    for (const over of [{ name: "a\u0000b" }, { labels: { team: "\u0000" } }, { labels: { half: "\ud800" } }]) {
      const answer = await test.api.request("POST", "/v1/jobs", { body: oneQuery(over) });
      expect({ over, status: answer.status }).toEqual({ over, status: 400 });
      expect(problemOf(answer).code).toBe("invalid_request");
    }
    for (const query of ["user=%00", "label=team:%00"]) {
      const answer = await test.api.request("GET", `/v1/jobs?${query}`);
      expect({ query, status: answer.status }).toEqual({ query, status: 400 });
    }
  });
});

describe("an idempotency key", () => {
  it("makes one job of fifty submissions at the same moment", async () => {
    const submission = oneQuery(onCluster());
    const jobs = await Promise.all(
      Array.from({ length: 50 }, () => test.api.submit(submission, { idempotencyKey: "fifty" })),
    );
    expect(new Set(jobs.map((job) => job.id)).size).toBe(1);
    const { task } = await warm.node.takeRun();
    await warm.node.finish(task, succeeded());
    expect((await test.api.ended(jobs[0]?.id ?? "")).status).toBe("succeeded");
    // The slots that were kept for the repeats are free.
    const next = await warm.submitAndTake();
    await warm.node.finish(next.task, succeeded());
    expect(await test.sql("SELECT count(*)::int AS n FROM tasks WHERE job_id = $1", [jobs[0]?.id])).toEqual([{ n: 1 }]);
  });

  it("gives the same job back for a repeated stream, and refuses another body", async () => {
    const stream = manyFrames(["a", "b"], [0, 1], onCluster());
    const first = await test.api.submit(stream, { idempotencyKey: "stream" });
    const again = await test.api.submit(stream, { idempotencyKey: "stream" });
    expect(again.id).toBe(first.id);
    const other = await test.api.request("POST", "/v1/jobs", {
      body: manyFrames(["a", "b"], [1, 0], onCluster()),
      headers: { "content-type": NDJSON, "idempotency-key": "stream" },
    });
    expect(problemOf(other)).toMatchObject({ code: "idempotency_mismatch", status: 422 });
    await test.api.post(`/v1/jobs/${first.id}/cancel`);
  });

  it("belongs to its workspace: another's job with the same key is another job", async () => {
    const mine = await test.api.submit(oneQuery(), { idempotencyKey: "shared" });
    const theirs = await test.stranger.submit(oneQuery(), { idempotencyKey: "shared" });
    expect(theirs.id).not.toBe(mine.id);
    await test.api.post(`/v1/jobs/${mine.id}/cancel`);
    await test.stranger.post(`/v1/jobs/${theirs.id}/cancel`);
  });
});

describe("lists of jobs", () => {
  it("come newest first in keyset pages, by status, mode, user and label", async () => {
    const labels = { team: `blue:${warm.clusterId}` };
    const jobs: Job[] = [];
    for (let at = 0; at < 5; at++) jobs.push(await warm.submit({ labels, name: `job ${at}` }));
    await test.api.post(`/v1/jobs/${jobs[0]?.id}/cancel`);
    const label = `label=${encodeURIComponent(`team:${labels.team}`)}`;
    const newestFirst = jobs.map((job) => job.id).reverse();
    const listed = await readPages<Job>(test.api, `/v1/jobs?${label}&limit=2`);
    expect(listed.map((job) => job.id)).toEqual(newestFirst);
    expect(listed[0]).toMatchObject({ name: "job 4", labels, user: "user of mine", mode: "single" });
    const of = async (query: string) => (await readPages<Job>(test.api, `/v1/jobs?${label}&${query}`)).length;
    expect(await of("status=cancelled")).toBe(1);
    expect(await of("mode=single")).toBe(5);
    expect(await of("mode=many")).toBe(0);
    expect(await of(`user=${encodeURIComponent("user of mine")}`)).toBe(5);
    expect(await of("user=nobody")).toBe(0);
    expect(problemOf(await test.api.request("GET", "/v1/jobs?cursor=x")).detail).toContain("cursor");
    for (const job of jobs) await test.api.post(`/v1/jobs/${job.id}/cancel`);
  });
});
