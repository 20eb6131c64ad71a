import { connect } from "node:net";
import { KEYS_MAX, PLAN_BYTES_MAX, TASKS_PER_JOB_MAX } from "@frazil/contracts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NDJSON, problemOf } from "../../harness/api.ts";
import { type ApiDocument, makeApiDocument, routesOf, servedRoutes } from "../../harness/api-routes.ts";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import {
  failed,
  manyFrames,
  oneQuery,
  planOf,
  released,
  SHAPE,
  type SpecInput,
  specOf,
  splitInto,
  succeeded,
} from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

const BODY_IDLE_MS = 300;
const MIB = 1024 * 1024;

let test: TestControlPlane;
let warm: WarmCluster;
beforeAll(async () => {
  test = await startTestControlPlane();
});
afterAll(() => test.close());
/** Fake nodes send no heartbeats, so that none is good for all of the file. */
const freshCluster = async () => {
  warm = await test.warmCluster();
};

const countJobs = async () => (await test.sql<{ n: number }>("SELECT count(*)::int AS n FROM jobs"))[0]?.n;

/** A body that is made as it is read, and counts what was. */
function measured(pieces: Iterable<string>): { body: ReadableStream<Uint8Array>; read: () => number } {
  const iterator = pieces[Symbol.iterator]();
  let bytes = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const { done, value } = iterator.next();
      if (done) return controller.close();
      const piece = Buffer.from(value);
      bytes += piece.length;
      controller.enqueue(piece);
    },
  });
  return { body, read: () => bytes };
}

/** `first`, then the same again and again until so many bytes were made. */
function* endless(first: readonly string[], again: string, bytes: number): Generator<string> {
  yield* first;
  for (let made = 0; made < bytes; made += again.length) yield again;
}

/** Sends a body that is refused before it is all there; the connection may be cut then, behind the answer. */
async function sendMeasured(route: string, type: string, sent: ReturnType<typeof measured>, token = test.api.token) {
  const socket = connect(Number(new URL(test.address).port), "127.0.0.1");
  let answer = "";
  let ended = false;
  socket.on("data", (data) => {
    answer += data;
  });
  socket.on("error", () => undefined);
  socket.on("close", () => {
    ended = true;
  });
  const head = [`${route} HTTP/1.1`, "host: frazil", `content-type: ${type}`, "transfer-encoding: chunked"];
  if (token !== undefined) head.push(`authorization: Bearer ${token}`);
  socket.write(`${head.join("\r\n")}\r\n\r\n`);
  for await (const piece of sent.body) {
    if (answer !== "" || ended) break;
    const chunk = `${piece.length.toString(16)}\r\n`;
    if (!socket.write(Buffer.concat([Buffer.from(chunk), piece, Buffer.from("\r\n")])))
      await new Promise<void>((resolve) => {
        socket.once("drain", resolve);
        socket.once("close", () => resolve());
      });
    // What was answered meanwhile is looked at.
    await new Promise(setImmediate);
  }
  await waitUntil(`${route} answers`, () => answer.includes("\r\n\r\n") && answer.endsWith("}"));
  socket.destroy();
  const [, status = ""] = answer.split(" ");
  return { status: Number(status), problem: JSON.parse(answer.slice(answer.indexOf("{"))) as Record<string, unknown> };
}

describe("a submission over a limit", () => {
  beforeAll(freshCluster);

  it("of 1,000,001 tasks is refused at the task too many, and the rest is not read", async () => {
    const before = await countJobs();
    const line = (value: unknown) => `${JSON.stringify(value)}\n`;
    const frames = (count: number) => line({ line: "frames", plans: Array.from({ length: count }, () => 0) });
    const hundred = frames(100_000);
    const first = [
      line({ line: "header", spec: specOf() }),
      line({ line: "plan", number: 0, plan: oneQuery().plan }),
      ...Array.from({ length: TASKS_PER_JOB_MAX / 100_000 }, () => hundred),
      frames(1),
    ];
    const sent = measured(endless(first, hundred, 900 * MIB));
    const { status, problem } = await sendMeasured("POST /v1/jobs", NDJSON, sent);
    expect(status).toBe(422);
    expect(problem).toMatchObject({
      code: "limit_exceeded",
      detail: "A job may have 1000000 tasks; send this submission as several jobs.",
    });
    expect(sent.read()).toBeLessThan(100 * MIB);
    expect(await countJobs()).toBe(before);
  });

  it("with a plan over 64 MiB is refused, naming the limit and the way around it", async () => {
    const data = "A".repeat(Math.ceil(PLAN_BYTES_MAX / 3) * 4 + 4);
    const body = JSON.stringify({ ...oneQuery(), plan: { kind: "dsl", data } });
    const answer = await test.api.request("POST", "/v1/jobs", { body });
    expect(problemOf(answer)).toMatchObject({
      status: 413,
      code: "too_large",
      detail: "The plan has more than 67108864 bytes; scan large data from storage instead of sending it in the plan.",
    });
  });

  it("with a plan of many mebibytes is taken", async () => {
    const data = Buffer.alloc(16 * MIB, "x");
    Buffer.from(oneQuery().plan.data, "base64").copy(data);
    const spec = specOf({ context: null, clusterId: warm.clusterId as never });
    const taken = await test.api.submit({ spec, plan: { kind: "dsl", data: data.toString("base64") } });
    await test.api.post(`/v1/jobs/${taken.id}/cancel`);
  });

  it("that allows more keys than a job may have is refused with the limit", async () => {
    const partitionBy = { keys: [{ name: "day" }], maxKeys: KEYS_MAX + 1 };
    const answer = await test.api.request("POST", "/v1/jobs", { body: oneQuery({ partitionBy }) });
    expect(problemOf(answer)).toMatchObject({ status: 400, code: "invalid_request" });
    expect(problemOf(answer).detail).toMatch(/maxKeys: a job may have at most 1000000 keys; choose a coarser key/);
  });

  // Each value is within its own limit.
  const value = "x".repeat(32_000);
  const values = Object.fromEntries(Array.from({ length: 40 }, (_, at) => [`V${at}`, value]));
  const key = (name: string) => ({ name, expr: "A".repeat(900_000) });
  const labels = Object.fromEntries(Array.from({ length: 400 }, (_, at) => [`label ${at}`, "x".repeat(200)]));
  const WHOLE = /^A job without its plan may have 1048576 bytes, this one has \d{7}; give what is large .* as files or/;
  const SHOWN = /^A job's labels, .* may have 65536 bytes, these have \d{5,6}; give fewer or shorter ones\.$/;
  const LARGE: Record<string, [Partial<SpecInput>, RegExp]> = {
    "environment variables": [{ context: { ...SHAPE, env: values } }, WHOLE],
    "storage options": [{ output: { storageOptions: values } }, WHOLE],
    "expressions for keys": [{ partitionBy: { keys: [key("a"), key("b")] } }, WHOLE],
    labels: [{ labels }, SHOWN],
    "output options": [{ output: { options: { metadata: labels } } }, SHOWN],
  };
  it.each(Object.entries(LARGE))("with too many %s is refused, as one query and as many", async (_, [over, detail]) => {
    const before = await countJobs();
    const many = { body: manyFrames(["a"], [0], over), headers: { "content-type": NDJSON } };
    for (const sent of [{ body: oneQuery(over) }, many]) {
      const problem = problemOf(await test.api.request("POST", "/v1/jobs", sent));
      expect(problem).toMatchObject({ status: 413, code: "too_large", detail: expect.stringMatching(detail) });
    }
    expect(await countJobs()).toBe(before);
  });

  it("with a header over the limit is refused before its plans come", async () => {
    const header = `${JSON.stringify({ line: "header", spec: specOf({ context: { ...SHAPE, env: values } }) })}\n`;
    const plan = (number: number) => `${JSON.stringify({ line: "plan", number, plan: planOf("x".repeat(MIB)) })}\n`;
    const sent = measured(endless([header], plan(0), 500 * MIB));
    expect((await sendMeasured("POST /v1/jobs", NDJSON, sent)).status).toBe(413);
    expect(sent.read()).toBeLessThan(50 * MIB);
  });

  it("is none just below: a large expression for a key, and many environment variables", async () => {
    await freshCluster();
    const fewer = Object.fromEntries(Object.entries(values).slice(0, 3));
    const partitionBy = { keys: [key("day")] };
    const job = await warm.submit({ context: { ...SHAPE, env: fewer }, partitionBy });
    const { template } = await warm.node.takeRun();
    expect(Object.values(template.env).map((text) => text.length)).toEqual([32_000, 32_000, 32_000]);
    expect(template.partitionBy?.keys[0]?.expr?.length).toBe(900_000);
    await test.api.post(`/v1/jobs/${job.id}/cancel`);
  });
});

describe("the keys of many frames", () => {
  beforeAll(freshCluster);

  it("are bounded for the whole job, not for each search", async () => {
    const job = await warm.submit({ partitionBy: { keys: [{ name: "day" }] } });
    const search = await warm.node.takeRun();
    // As if other frames had found all but three of a million.
    await test.sql("UPDATE jobs SET tasks_total = $2, tasks_succeeded = $2 WHERE id = $1", [
      job.id,
      TASKS_PER_JOB_MAX - 3,
    ]);
    expect(await warm.node.finish(search.task, splitInto(4))).toBe(true);
    const done = await test.api.ended(job.id);
    expect(done).toMatchObject({ status: "failed", counts: { failed: 1, total: TASKS_PER_JOB_MAX - 2 } });
    const [task] = await test.api.tasks(job.id);
    expect(task?.error).toMatchObject({
      code: "limit_exceeded",
      message: "The keys would make more than 1000000 tasks in one job.",
      hint: expect.stringContaining("coarser key"),
    });
  });

  it("fill the job to the last task", async () => {
    const job = await warm.submit({ partitionBy: { keys: [{ name: "day" }] } });
    const search = await warm.node.takeRun();
    await test.sql("UPDATE jobs SET tasks_total = $2, tasks_succeeded = $2 WHERE id = $1", [
      job.id,
      TASKS_PER_JOB_MAX - 3,
    ]);
    await warm.node.finish(search.task, splitInto(3));
    const keys = await warm.node.takeRun();
    for (const task of keys.run.tasks) await warm.node.finish(task, succeeded());
    expect(await test.api.ended(job.id)).toMatchObject({ status: "succeeded", counts: { total: TASKS_PER_JOB_MAX } });
  });
});

describe("a task that nodes give back", () => {
  beforeAll(freshCluster);

  it("keeps its tries: what was not run was no try", async () => {
    const { job, ...taken } = await warm.submitAndTake({ attemptsMax: 2 });
    let { task } = taken;
    for (let at = 0; at < 3; at++) {
      await warm.node.finish(task, released);
      ({ task } = await warm.node.takeRun());
    }
    await warm.node.finish(task, failed("engine_lost", "the first try"));
    await test.sql("UPDATE tasks SET not_before = now() WHERE job_id = $1", [job.id]);
    ({ task } = await warm.node.takeRun());
    expect(task.attempt).toBe(5);
    await warm.node.finish(task, failed("engine_lost", "the second and last try"));
    expect(await test.api.ended(job.id)).toMatchObject({
      status: "failed",
      error: { message: expect.stringContaining("last") },
    });
  });

  it("is failed with the reason when they do so without end", async () => {
    const { job, task } = await warm.submitAndTake();
    await test.sql("UPDATE tasks SET releases = 50 WHERE id = $1", [task.taskId]);
    await warm.node.finish(task, released);
    expect(await test.api.ended(job.id)).toMatchObject({
      status: "failed",
      error: { code: "node_lost", message: "Nodes gave this task back more than 50 times without running it." },
    });
  });
});

const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
const BAD_UTF8 = Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]);

interface Edge {
  readonly route: string;
  readonly type: string;
  /** Where more than 50 MiB are read of a body that does not end. */
  readonly mibMax?: number;
  readonly token: () => string | undefined;
  /** A body with this JSON within, where the address takes any JSON. */
  readonly holding: (json: string) => string;
}
const withOptions = (json: string) =>
  JSON.stringify(oneQuery({ output: { options: { given: "HERE" } } })).replace('"HERE"', json);
const mine = () => test.api.token;
const EDGES: Edge[] = [
  { route: "POST /v1/jobs", type: "application/json", mibMax: 130, token: mine, holding: withOptions },
  {
    route: "POST /v1/jobs",
    type: NDJSON,
    mibMax: 130,
    token: mine,
    holding: (json) =>
      `${JSON.stringify({ line: "header", spec: specOf({ output: { options: { given: "HERE" } } }) }).replace('"HERE"', json)}\n`,
  },
  { route: "POST /v1/clusters", type: "application/json", token: mine, holding: (json) => `{"context": ${json}}` },
  {
    route: "PATCH /v1/workspace",
    type: "application/json",
    token: mine,
    holding: (json) => `{"tasksRunningMax": ${json}}`,
  },
  {
    route: "POST /v1/agent/messages",
    type: "application/json",
    mibMax: 100,
    token: () => warm.node.token,
    holding: (json) => `{"messages":[{"type":"staged","taskId":"t","attempt":1,"manifest":${json}}]}`,
  },
  {
    route: "POST /v1/agent/leases",
    type: "application/json",
    mibMax: 100,
    token: () => warm.node.token,
    holding: (json) => json,
  },
  {
    route: "POST /v1/agent/logs",
    type: "application/json",
    mibMax: 100,
    token: () => warm.node.token,
    holding: (json) => json,
  },
  { route: "POST /v1/agent/join", type: "application/json", token: () => undefined, holding: (json) => json },
];

/** Routes of a document that take a body, or don't, as it says. */
const takingBody = (document: ApiDocument, takes: boolean) =>
  routesOf(document).filter((route) => {
    const [method = "", path = ""] = route.split(" ");
    const methods = document.paths?.[path] as Record<string, object>;
    return "requestBody" in (methods[method.toLowerCase()] ?? {}) === takes;
  });

describe("every route that takes a body", () => {
  /** Agents' routes are in no document: all of them that are no GET are taken to read one. */
  const withoutEdge = (document: ApiDocument, served: readonly string[]) => {
    const bodiless = takingBody(document, false);
    const mayTake = served.filter((route) => !route.startsWith("GET ") && !bodiless.includes(route));
    const edges = EDGES.map((edge) => edge.route);
    return [...new Set([...takingBody(document, true), ...mayTake])].filter((route) => !edges.includes(route));
  };

  it("has its limits tested here", () => {
    expect(withoutEdge(makeApiDocument(), servedRoutes())).toEqual([]);
  });

  it("would be missed if it had not", () => {
    const document = makeApiDocument();
    const planted = { paths: { ...document.paths, "/v1/secrets": { put: { requestBody: {} }, delete: {} } } };
    const served = [...servedRoutes(), "POST /v1/agent/secrets"];
    expect(withoutEdge(planted, served)).toEqual(["PUT /v1/secrets", "POST /v1/agent/secrets"]);
  });
});

describe.each(EDGES)("$route of $type", ({ route, type, mibMax = 50, token, holding }) => {
  beforeAll(freshCluster);

  const [method = "", path = ""] = route.split(" ");
  const post = (body: string | Uint8Array) =>
    fetch(`${test.address}${path}`, {
      method,
      body: body as string,
      headers: { "content-type": type, ...(token() === undefined ? {} : { authorization: `Bearer ${token()}` }) },
    });

  it.each([250, 7_000])("refuses JSON that is nested %i levels deep", async (depth) => {
    const answer = await post(holding(nested(depth)));
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({
      code: "invalid_request",
      detail: expect.stringMatching(/levels deep|fit/),
    });
  });

  it("refuses what is not UTF-8, not JSON, or nothing", async () => {
    for (const body of [BAD_UTF8, "{", "", "\u0000", "null", "[]", '"text"', "1e999"]) {
      const answer = await post(body);
      expect({ body, status: answer.status }).toEqual({ body, status: 400 });
      expect(await answer.json()).toMatchObject({ code: "invalid_request" });
    }
  });

  it("refuses a body without end long before it has read all that is sent", async () => {
    const sent = measured(endless(['{"context": "'], "x".repeat(64 * 1024), 500 * MIB));
    const { status, problem } = await sendMeasured(route, type, sent, token());
    expect({ status, code: problem.code }).toEqual({ status: 413, code: "too_large" });
    expect(sent.read()).toBeLessThan(mibMax * MIB);
  });

  it("gives up a body that stops coming, and closes its connection", async () => {
    const { settings } = test.plane.deps;
    const usualMs = settings.bodyIdleMs;
    settings.bodyIdleMs = BODY_IDLE_MS;
    const answered = sendMeasured(route, type, measured(stopping()), token());
    const { status, problem } = await answered.finally(() => {
      settings.bodyIdleMs = usualMs;
    });
    expect({ status, code: problem.code }).toEqual({ status: 408, code: "request_timeout" });
  });
});

/** A beginning; then nothing more comes, for as long as anyone waits. */
function* stopping(): Generator<string> {
  yield '{"';
}

describe("a request", () => {
  it("with headers over 16 KiB is refused", async () => {
    const answer = await fetch(`${test.address}/v1/me`, {
      headers: { authorization: `Bearer ${test.api.token}`, "x-large": "x".repeat(20 * 1024) },
    });
    expect(answer.status).toBe(431);
  });

  it("for an address with another method is told which it takes", async () => {
    const answer = await test.api.request("DELETE", "/v1/jobs");
    expect(problemOf(answer)).toMatchObject({
      status: 405,
      code: "method_not_allowed",
      detail: "/v1/jobs takes GET, POST.",
    });
    expect(answer.headers.get("allow")).toBe("GET, POST");
  });

  it("leaves the server well, whatever it was", async () => {
    const done = await test.api.request("POST", "/v1/clusters", { body: { context: { ...SHAPE, memoryGiB: 9 } } });
    expect(done.status).toBe(202);
  });
});
