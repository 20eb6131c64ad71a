import { once } from "node:events";
import { bootstrap } from "@frazil/control-plane";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { openApi, problemOf } from "../../harness/api.ts";
import { makeApiDocument, routesOf, servedRoutes } from "../../harness/api-routes.ts";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { readEvents } from "../../harness/events.ts";
import type { LeasedRun } from "../../harness/fake-node.ts";
import { failed, logLine, oneQuery, planBytesOf, SHAPE, succeeded } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";

interface Case {
  /** What the path's id is of; null when there is none. */
  readonly id: "job" | "failed job" | "cluster" | null;
  readonly body?: unknown;
  /** What it answers to whom it may answer. */
  readonly success: number;
}

/** One for every route of the public API. */
const CASES: Record<string, Case> = {
  "POST /v1/jobs": { id: null, body: oneQuery(), success: 202 },
  "GET /v1/jobs": { id: null, success: 200 },
  "GET /v1/jobs/{id}": { id: "job", success: 200 },
  "GET /v1/jobs/{id}/wait": { id: "failed job", success: 200 },
  "GET /v1/jobs/{id}/events": { id: "failed job", success: 200 },
  "GET /v1/jobs/{id}/tasks": { id: "job", success: 200 },
  "GET /v1/jobs/{id}/results": { id: "job", success: 200 },
  "GET /v1/jobs/{id}/failures": { id: "job", success: 200 },
  "GET /v1/jobs/{id}/logs": { id: "job", success: 200 },
  "POST /v1/jobs/{id}/cancel": { id: "failed job", success: 200 },
  "POST /v1/jobs/{id}/retry": { id: "failed job", success: 202 },
  "GET /v1/clusters": { id: null, success: 200 },
  "POST /v1/clusters": { id: null, body: { context: SHAPE }, success: 202 },
  "GET /v1/clusters/{id}": { id: "cluster", success: 200 },
  "GET /v1/clusters/{id}/wait": { id: "cluster", success: 200 },
  "POST /v1/clusters/{id}/stop": { id: "cluster", success: 202 },
  "GET /v1/me": { id: null, success: 200 },
  "GET /v1/workspace": { id: null, success: 200 },
  "PATCH /v1/workspace": { id: null, body: { tasksRunningMax: null }, success: 200 },
};

/** Routes that take a node's token, with a body that it may send. */
const AGENT_CASES: Record<string, unknown> = {
  "POST /v1/agent/messages": { messages: [] },
  "POST /v1/agent/leases": { tasks: [{ taskId: "task_x", attempt: 1 }] },
  "GET /v1/agent/plans/{id}": undefined,
  "GET /v1/agent/sweeps/{id}": undefined,
  "POST /v1/agent/logs": { lines: [] },
};
/** Joining takes the join token in its body. */
const JOIN = "POST /v1/agent/join";
const OPEN = ["GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.json"];

const withoutCase = (routes: readonly string[], cases: readonly string[]) =>
  routes.filter((route) => !cases.includes(route));

let test: TestControlPlane;
let warm: WarmCluster;
let theirs: WarmCluster;
let leased: LeasedRun & { job: { id: string } };
const ids = { job: "", "failed job": "", cluster: "" };
const MISSING = {
  job: `job_${"0".repeat(26)}`,
  "failed job": `job_${"0".repeat(26)}`,
  cluster: `cl_${"0".repeat(26)}`,
};
const badTokens: Record<string, string | undefined> = {};

beforeAll(async () => {
  test = await startTestControlPlane();
  warm = await test.warmCluster();
  theirs = await test.warmCluster({ api: test.stranger });
  const done = await warm.submitAndTake();
  await warm.node.finish(done.task, failed("query_failed", "no", false));
  await test.api.ended(done.job.id);
  leased = await warm.submitAndTake();
  Object.assign(ids, { job: leased.job.id, "failed job": done.job.id, cluster: warm.clusterId });
  const mint = async () =>
    (await bootstrap(test.plane.deps.pool, "/", { workspace: "mine", user: "another", token: undefined })).token;
  const change = async (sql: string) => {
    const token = await mint();
    await test.sql(`${sql} WHERE prefix = $1`, [token.split("_")[1]]);
    return token;
  };
  Object.assign(badTokens, {
    none: undefined,
    "what is no token": "hello",
    "a token that was never given out": await change("DELETE FROM api_tokens"),
    "an expired token": await change("UPDATE api_tokens SET expires_at = now() - interval '1 second'"),
    "a revoked token": await change("UPDATE api_tokens SET revoked_at = now()"),
    "a node's token": warm.node.token,
  });
});
afterAll(() => test.close());

function call(token: string | undefined, route: string, id: string, body: unknown) {
  const [method = "", path = ""] = route.split(" ");
  return openApi(test.address, token).request(method, path.replace("{id}", id), body === undefined ? {} : { body });
}

describe("every route of the API", () => {
  it("has a case here", () => {
    expect(withoutCase(routesOf(makeApiDocument()), Object.keys(CASES))).toEqual([]);
    const others = [...Object.keys(AGENT_CASES), JOIN, ...OPEN];
    expect(withoutCase(servedRoutes(), [...Object.keys(CASES), ...others])).toEqual([]);
  });

  it("would be missed if it had none", () => {
    const document = makeApiDocument();
    const planted = { paths: { ...document.paths, "/v1/secrets": { get: {} } } };
    expect(withoutCase(routesOf(planted), Object.keys(CASES))).toEqual(["GET /v1/secrets"]);
  });

  it.each(Object.entries(CASES))("answers 401 to bad tokens: %s", async (route, { id, body }) => {
    const named = id === null ? "" : ids[id];
    for (const [what, token] of Object.entries(badTokens)) {
      const answer = await call(token, route, named, body);
      expect({ what, status: answer.status }).toEqual({ what, status: 401 });
      expect(problemOf(answer).code).toBe("unauthenticated");
      expect(answer.headers.get("www-authenticate")).toBe("Bearer");
    }
  });

  const withIds = Object.entries(CASES).flatMap(([route, one]) =>
    one.id === null ? [] : [[route, one.id, one] as const],
  );
  it.each(withIds)("says of another workspace's id what it says of none: %s", async (route, id, { body }) => {
    const foreign = await call(test.stranger.token, route, ids[id], body);
    const missing = await call(test.stranger.token, route, MISSING[id], body);
    expect(problemOf(foreign)).toMatchObject({ status: 404, code: "not_found" });
    const text = (answer: typeof foreign, named: string) => JSON.stringify(answer.body).replaceAll(named, "ID");
    expect(text(foreign, ids[id])).toBe(text(missing, MISSING[id]));
    expect([...foreign.headers.keys()].sort()).toEqual([...missing.headers.keys()].sort());
  });

  it.each(withIds)("refuses what is not an id, without asking the database: %s", async (route, _, { body }) => {
    expect(problemOf(await call(test.api.token, route, "x'--", body)).code).toBe("invalid_request");
  });

  it("lists nothing of another workspace", async () => {
    for (const path of ["/v1/jobs", "/v1/jobs?limit=1000&status=running", `/v1/jobs?cursor=${ids.job}`]) {
      const { items } = await test.stranger.get<{ items: { id: string }[] }>(path);
      expect(items.filter((job) => Object.values(ids).includes(job.id))).toEqual([]);
    }
    const { items } = await test.stranger.get<{ items: { id: string }[] }>("/v1/clusters");
    expect(items.map((cluster) => cluster.id)).toEqual([theirs.clusterId]);
    expect(await test.stranger.get("/v1/me")).toMatchObject({ workspace: { name: "others" }, user: "user of others" });
  });

  it("lets no job run on another workspace's cluster", async () => {
    const answer = await test.stranger.request("POST", "/v1/jobs", {
      body: oneQuery({ context: null, clusterId: ids.cluster as never }),
    });
    expect(problemOf(answer)).toMatchObject({ status: 404, detail: `There is no cluster ${ids.cluster}.` });
  });
});

describe("routes that need no token", () => {
  it.each(OPEN)("%s answers", async (route) => {
    expect((await call(undefined, route, "", undefined)).status).toBe(200);
  });

  it("serve the document that is committed", async () => {
    const { body } = await call(undefined, "GET /openapi.json", "", undefined);
    expect(body).toEqual(JSON.parse(JSON.stringify(makeApiDocument())));
  });

  it("say nothing of any workspace", async () => {
    const texts = await Promise.all(
      OPEN.map(async (route) => JSON.stringify((await call(undefined, route, "", undefined)).body)),
    );
    expect(texts.join("")).not.toMatch(/(job|cl|ws|node|task)_[0-9a-z]{26}|user of/);
  });

  it("are no others: what is not there is 401 under /v1 and 404 elsewhere", async () => {
    expect(problemOf(await call(undefined, "GET /v1/nothing", "", undefined)).status).toBe(401);
    expect(problemOf(await call(test.api.token, "GET /v1/nothing", "", undefined)).status).toBe(404);
    expect(problemOf(await call(undefined, "GET /nothing", "", undefined)).status).toBe(404);
  });
});

describe("routes of agents", () => {
  it.each(Object.entries(AGENT_CASES))("answer 401 to all but nodes' tokens: %s", async (route, body) => {
    for (const token of [undefined, "hello", test.api.token, "frznode_0000000000000000000000000000000000000000000"]) {
      expect(problemOf(await call(token, route, "plan_x", body)).status).toBe(401);
    }
    expect((await call(theirs.node.token, route, "plan_x", body)).status).not.toBe(401);
  });

  it("let nobody join without a join token", async () => {
    const request = { agentVersion: "0", hostname: "h", pid: 1, pythons: [] };
    for (const joinToken of ["", "frzjoin_x", test.api.token, warm.node.token]) {
      expect(problemOf(await call(undefined, JOIN, "", { ...request, joinToken })).status).toBe(401);
    }
  });

  it("let nobody connect without a node's token", async () => {
    const url = `${test.address.replace(/^http/, "ws")}/v1/agent/connect`;
    for (const token of [undefined, test.api.token, "hello"]) {
      const socket = new WebSocket(url, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } });
      const [error] = (await once(socket, "error")) as [Error];
      expect(error.message).toContain("401");
    }
  });

  it("give a node the plans and leases of its own workspace only", async () => {
    const { planId } = leased.run;
    const own = await fetch(`${test.address}/v1/agent/plans/${planId}`, {
      headers: { authorization: `Bearer ${warm.node.token}` },
    });
    expect(Buffer.from(await own.arrayBuffer()).equals(planBytesOf("a plan"))).toBe(true);
    expect(problemOf(await call(theirs.node.token, "GET /v1/agent/plans/{id}", planId, undefined)).status).toBe(404);
    const tasks = leased.run.tasks.map(({ taskId, attempt }) => ({ taskId, attempt }));
    const foreign = await call(theirs.node.token, "POST /v1/agent/leases", "", { tasks });
    expect(foreign.body).toEqual({ batches: [] });
  });

  it("keep nothing that a node of another workspace says of a task", async () => {
    await theirs.node.log([logLine(leased.task, 0, "not mine to say")]);
    expect(await theirs.node.finish(leased.task, succeeded())).toBe(false);
    const rows = await test.sql("SELECT 1 FROM logs WHERE task_id = $1", [leased.task.taskId]);
    expect(rows).toEqual([]);
  });
});

describe("ids of another workspace, within a request, are as good as none", () => {
  /** What both answers have to have in common: all but the id itself, and the time. */
  const told = (answer: { status: number; body: unknown; headers: Headers }, id: string) => ({
    status: answer.status,
    body: JSON.stringify(answer.body).replaceAll(id, "ID"),
    headers: [...answer.headers].filter(([name]) => name !== "date" && name !== "content-length"),
  });
  const NO_TASK = `task_${"0".repeat(26)}`;
  const NO_PLAN = `plan_${"0".repeat(26)}`;
  const stranger = () => test.stranger.token;
  const theirNode = () => theirs.node.token;

  interface Within {
    readonly route: string;
    readonly token: () => string | undefined;
    readonly foreign: () => string;
    readonly missing: string;
    readonly inPath?: (id: string) => string;
    readonly body?: (id: string) => unknown;
  }
  const finished = (taskId: string) => ({
    messages: [{ type: "finished", taskId, attempt: 1, outcome: succeeded(), usage: null, openedPython: false }],
  });
  const CASES_WITHIN: Record<string, Within> = {
    "the cluster of a submission": {
      route: "POST /v1/jobs",
      token: stranger,
      foreign: () => ids.cluster,
      missing: MISSING.cluster,
      body: (clusterId) => oneQuery({ context: null, clusterId }),
    },
    "the cursor of a list of jobs": {
      route: "GET /v1/jobs",
      token: stranger,
      foreign: () => ids.job,
      missing: `job_${"z".repeat(26)}`,
      inPath: (id) => `?cursor=${id}`,
    },
    "a plan": {
      route: "GET /v1/agent/plans/{id}",
      token: theirNode,
      foreign: () => leased.run.planId,
      missing: NO_PLAN,
    },
    "a lease": {
      route: "POST /v1/agent/leases",
      token: theirNode,
      foreign: () => leased.task.taskId,
      missing: NO_TASK,
      body: (taskId) => ({ tasks: [{ taskId, attempt: 1 }] }),
    },
    "a log line": {
      route: "POST /v1/agent/logs",
      token: theirNode,
      foreign: () => leased.task.taskId,
      missing: NO_TASK,
      body: (taskId) => ({ lines: [logLine({ ...leased.task, taskId }, 0, "not mine to say")] }),
    },
    "a heartbeat": {
      route: "POST /v1/agent/messages",
      token: theirNode,
      foreign: () => leased.task.taskId,
      missing: NO_TASK,
      body: (taskId) => ({
        messages: [{ type: "heartbeat", holding: [{ taskId, attempt: 1 }], cpuPercent: 1, memoryBytes: 1 }],
      }),
    },
    "a staged output": {
      route: "POST /v1/agent/messages",
      token: theirNode,
      foreign: () => leased.task.taskId,
      missing: NO_TASK,
      body: (taskId) => ({ messages: [{ type: "staged", taskId, attempt: 1, manifest: {} }] }),
    },
    "the end of a task": {
      route: "POST /v1/agent/messages",
      token: theirNode,
      foreign: () => leased.task.taskId,
      missing: NO_TASK,
      body: finished,
    },
  };

  it.each(Object.entries(CASES_WITHIN))("%s", async (_, { route, token, foreign, missing, inPath, body }) => {
    const ask = (id: string) => call(token(), route + (inPath?.(id) ?? ""), id, body?.(id));
    const [one, other] = [await ask(foreign()), await ask(missing)];
    expect(one.status).not.toBe(401);
    expect(told(one, foreign())).toEqual(told(other, missing));
  });

  it("the task whose lines of one's own job are asked for", async () => {
    const mine = await test.stranger.submit(oneQuery({ context: null, clusterId: theirs.clusterId as never }));
    const ask = (taskId: string) => call(stranger(), `GET /v1/jobs/{id}/logs?taskId=${taskId}`, mine.id, undefined);
    const [one, other] = [await ask(leased.task.taskId), await ask(NO_TASK)];
    expect(told(one, leased.task.taskId)).toEqual(told(other, NO_TASK));
  });
});

describe("a token that is no longer good", () => {
  /** Less than a token that was good may be taken as good without a look. */
  const AT_ONCE_MS = 4_000;
  const ENDS: Record<string, string> = {
    revoked: "UPDATE api_tokens SET revoked_at = now() WHERE prefix = $1",
    deleted: "DELETE FROM api_tokens WHERE prefix = $1",
    expired: "UPDATE api_tokens SET expires_at = now() WHERE prefix = $1",
  };
  const freshApi = async () => {
    const setting = { workspace: "mine", user: "shortly", token: undefined };
    const { token } = await bootstrap(test.plane.deps.pool, "/", setting);
    return { api: openApi(test.address, token), prefix: token.split("_")[1] };
  };

  it.each(Object.entries(ENDS))("is refused at once, though it was good a moment ago: %s", async (_, sql) => {
    const { api, prefix } = await freshApi();
    expect((await api.request("GET", "/v1/me")).status).toBe(200);
    await test.sql(sql, [prefix]);
    const isRefused = async () => (await api.request("GET", "/v1/me")).status === 401;
    await waitUntil("it is refused", isRefused, AT_ONCE_MS);
  });

  it("ends the streams and the waits that it opened", async () => {
    const { api, prefix } = await freshApi();
    const events = readEvents(api, `/v1/jobs/${ids.job}/events`);
    expect((await events.next()).value?.event).toBe("job");
    const open = Promise.all([
      api.request("GET", `/v1/jobs/${ids.job}/wait?timeout=60`),
      api.request("GET", `/v1/jobs/${ids.job}/wait?timeout=60&revision=1000000`),
      events.next(),
    ]);
    await test.sql(ENDS.revoked ?? "", [prefix]);
    const late = new Promise((_, reject) => setTimeout(reject, AT_ONCE_MS, new Error("they go on")).unref());
    await Promise.race([open, late]);
  });

  it("ends a stream when its time is over", async () => {
    const { api, prefix } = await freshApi();
    await test.sql("UPDATE api_tokens SET expires_at = now() + interval '5 seconds' WHERE prefix = $1", [prefix]);
    const seen: string[] = [];
    for await (const { event } of readEvents(api, `/v1/jobs/${ids.job}/events`)) seen.push(event);
    expect(seen).not.toContain("end");
    expect((await api.request("GET", "/v1/me")).status).toBe(401);
  });

  it("ends a node's connection, which then gets nothing more", async () => {
    const gone = await test.warmCluster();
    await test.sql("UPDATE nodes SET node_token_hash = NULL WHERE id = $1", [gone.node.id]);
    await waitUntil("its connection is closed", () => !gone.node.isOpen(), AT_ONCE_MS);
    expect((await call(gone.node.token, "POST /v1/agent/messages", "", { messages: [] })).status).toBe(401);
    await expect(gone.node.reconnect()).rejects.toThrow("401");
  });
});

// Last, because stopping the cluster ends what the others look at.
describe("every route of the API, called by whom it serves,", () => {
  it.each(Object.entries(CASES))("answers: %s", async (route, { id, body, success }) => {
    const answer = await call(test.api.token, route, id === null ? "" : ids[id], body);
    expect({ status: answer.status, body: answer.status === success ? "" : answer.body }).toEqual({
      status: success,
      body: "",
    });
  });
});
