import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Job } from "@frazil/contracts";
import { Client } from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Answer } from "../harness/api.ts";
import { startTestControlPlane, type TestControlPlane } from "../harness/control-plane.ts";
import { type OwnPostgres, startOwnPostgres } from "../harness/own-postgres.ts";
import { SHAPE } from "../harness/submissions.ts";
import { waitUntil } from "../harness/wait-until.ts";
import { type NodeOfPlane, startNodeOfPlane } from "./agent/node-of-plane.ts";

const STALL_MS = 30_000;
const RECOVERS_WITHIN_MS = 30_000;
/** So long a request may take to be told that the database is away. */
const ANSWERS_WITHIN_MS = 20_000;
const TEST_WITHIN_MS = 150_000;

let postgres: OwnPostgres;
let test: TestControlPlane;
let node: NodeOfPlane;
beforeAll(async () => {
  postgres = await startOwnPostgres();
}, TEST_WITHIN_MS);
afterAll(() => postgres.stop());
beforeEach(async () => {
  // As it is in an installation: leases run out in 15 s.
  test = await startTestControlPlane({ database: postgres.database, leaseTtlMs: 15_000, expectedErrors: /./ });
  node = await startNodeOfPlane(test, test.address, { FRAZIL_HEARTBEAT_INTERVAL_MS: "3000" });
});
afterEach(async () => {
  await node.stop();
  await test.close();
});

const path = (route: string, jobId: string) =>
  route.replace("{job}", jobId).replace("{cluster}", node.clusterId).split(" ") as [string, string];
/** Every route that asks the database. */
const routes = () =>
  [
    "GET /v1/me",
    "GET /v1/jobs",
    "GET /v1/jobs/{job}",
    "GET /v1/jobs/{job}/wait?timeout=1",
    "GET /v1/jobs/{job}/events",
    "GET /v1/jobs/{job}/tasks",
    "GET /v1/jobs/{job}/results",
    "GET /v1/jobs/{job}/failures",
    "GET /v1/jobs/{job}/logs",
    "POST /v1/jobs/{job}/cancel",
    "POST /v1/jobs/{job}/cancel",
    "POST /v1/jobs/{job}/retry",
    "GET /v1/clusters",
    "GET /v1/clusters/{cluster}",
    "GET /v1/clusters/{cluster}/wait?timeout=1",
    "POST /v1/clusters",
    "GET /readyz",
    "GET /metrics",
    "POST /v1/agent/join",
    "GET /v1/agent/plans/plan_x",
  ] as const;

function call(route: string, jobId: string): Promise<Answer> {
  const [method, to] = path(route, jobId);
  const bodies: Record<string, unknown> = {
    "/v1/clusters": { context: { ...SHAPE, memoryGiB: 500 } },
    "/v1/agent/join": { joinToken: "x", agentVersion: "0", hostname: "h", pid: 1, pythons: [] },
  };
  const signal = AbortSignal.timeout(ANSWERS_WITHIN_MS);
  const body = method === "POST" ? bodies[to] : undefined;
  return test.api.request(method, to, { signal, ...(body === undefined ? {} : { body }) });
}

const is503 = (answer: Answer) =>
  answer.status === 503 &&
  Number(answer.headers.get("retry-after")) > 0 &&
  (answer.body as { code: string }).code === "unavailable";

/** Submits as a client does: with a key, again and again until it is taken. */
async function submitStubbornly(name: string): Promise<Job> {
  const body = node.query([["head", 1_000]], name);
  const headers = { "idempotency-key": `${name} on ${node.clusterId}` };
  return waitUntil(
    `${name} is taken`,
    async () => {
      const answer = await test.api
        .request<Job>("POST", "/v1/jobs", { body, headers, signal: AbortSignal.timeout(ANSWERS_WITHIN_MS) })
        .catch(() => undefined);
      if (answer?.status !== 202) await delay(200);
      return answer?.status === 202 && answer.body;
    },
    TEST_WITHIN_MS,
  );
}

const ended = (job: Job) =>
  waitUntil(
    `${job.name ?? job.id} ends`,
    async () => {
      const now = await test.api.job(job.id);
      return now.finishedAt !== null && now;
    },
    RECOVERS_WITHIN_MS,
  );

/** A job that runs as the trouble begins, and is done by the engine in the midst of it. */
async function startGated() {
  const done = await node.submit([]);
  await ended(done);
  const [gate, mark] = [join(node.nodeDir, "gate"), join(node.nodeDir, "mark")];
  const job = await node.submit([
    ["wait-for", gate],
    ["touch", mark],
  ]);
  const isRunning = async () => (await test.api.tasks(job.id))[0]?.status === "running";
  await waitUntil("it runs", isRunning, RECOVERS_WITHIN_MS);
  return {
    job,
    done,
    async finish() {
      writeFileSync(gate, "");
      await waitUntil("the engine is done", () => existsSync(mark), RECOVERS_WITHIN_MS);
    },
  };
}

/** What was accepted before, tried during and done after the trouble has its right end, once. */
async function expectNothingLost(jobs: readonly Job[]) {
  for (const job of jobs) expect(await ended(job)).toMatchObject({ status: "succeeded", counts: { total: 1 } });
  const after = await submitStubbornly("after");
  expect((await ended(after)).status).toBe("succeeded");
  const rows = await test.sql<{ results: number; ends: number }>(
    `SELECT (SELECT count(*)::int FROM results r WHERE r.job_id = j.id) AS results,
        (SELECT count(*)::int FROM events e WHERE e.job_id = j.id AND e.event = 'finish') AS ends
      FROM jobs j WHERE j.id = ANY($1)`,
    [[...jobs, after].map((job) => job.id)],
  );
  expect(rows).toEqual([...jobs, after].map(() => ({ results: 1, ends: 1 })));
  const errors = test.logLines.filter((line) => /unhandled|TypeError|ReferenceError/i.test(line));
  expect(errors).toEqual([]);
}

describe("when Postgres stands still for half a minute", { timeout: TEST_WITHIN_MS }, () => {
  afterEach(() => postgres.thaw());

  it("every route says 503 and when to try again; then all goes on, and what nodes hold is theirs still", async () => {
    const gated = await startGated();
    const stalledAtMs = performance.now();
    postgres.freeze();
    const answers = await Promise.all(routes().map((route) => call(route, gated.done.id)));
    expect(routes().filter((_, at) => !is503(answers[at] as Answer))).toEqual([]);
    expect((await test.api.request("GET", "/healthz")).status).toBe(200);
    await gated.finish();
    const during = submitStubbornly("during the stall");
    await waitUntil("half a minute is over", () => performance.now() - stalledAtMs > STALL_MS, 2 * STALL_MS);
    postgres.thaw();
    await waitUntil("it answers again", async () => (await call("GET /v1/me", "")).status === 200, RECOVERS_WITHIN_MS);
    await expectNothingLost([gated.job, await during]);
    const attempts = await test.sql("SELECT attempt FROM tasks WHERE job_id = $1", [gated.job.id]);
    expect(attempts).toEqual([{ attempt: 1 }]);
    expect(test.cloud.destroyed).toEqual([]);
  });
});

describe("when Postgres takes no more connections", { timeout: TEST_WITHIN_MS }, () => {
  const hogs: Client[] = [];
  afterEach(async () => {
    await Promise.all(hogs.splice(0).map((hog) => hog.end()));
  });

  /** Takes every connection there is, the control plane's own too. */
  async function hogAll(): Promise<void> {
    const connect = async () => {
      const hog = new Client({ connectionString: postgres.url, application_name: "hog" });
      hog.on("error", () => undefined);
      try {
        await hog.connect();
        hogs.push(hog);
        return true;
      } catch (error) {
        if ((error as { code?: string }).code !== "53300") throw error;
        return false;
      }
    };
    const connectSome = async () => (await Promise.all(Array.from({ length: 20 }, connect))).every((made) => made);
    while (await connectSome());
    const others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name <> 'hog'";
    const isAllOurs = async () => {
      await hogs[0]?.query(`${others} AND backend_type = 'client backend' AND pid <> pg_backend_pid()`);
      while (await connect());
      const left = await hogs[0]?.query(
        "SELECT 1 FROM pg_stat_activity WHERE application_name <> 'hog' AND backend_type = 'client backend'",
      );
      return left?.rowCount === 0;
    };
    await waitUntil("all connections are taken", isAllOurs, RECOVERS_WITHIN_MS);
  }

  it("every route says 503 and when to try again, and all goes on when there are some again", async () => {
    const gated = await startGated();
    await hogAll();
    // A connection that was just being made as all were taken serves still: it is taken too.
    const says503 = async (route: string) => {
      const answer = await call(route, gated.done.id);
      expect({ route, status: answer.status < 500 || is503(answer) ? "as documented" : answer.status }).toEqual({
        route,
        status: "as documented",
      });
      if (!is503(answer)) await hogAll();
      return is503(answer);
    };
    for (const route of routes()) await waitUntil(`${route} says 503`, () => says503(route), RECOVERS_WITHIN_MS);
    await gated.finish();
    const during = submitStubbornly("while there are no connections");
    await Promise.all(hogs.splice(0).map((hog) => hog.end()));
    await expectNothingLost([gated.job, await during]);
  });
});

describe("when the disk under Postgres is full", { timeout: TEST_WITHIN_MS }, () => {
  it("what must be written is answered 503, the rest as ever, and all goes on when there is room", async (context) => {
    if (postgres.noDisk !== undefined) return context.skip(postgres.noDisk);
    const gated = await startGated();
    await test.sql("CHECKPOINT");
    postgres.fillDisk();
    try {
      const large = {
        ...node.query([]),
        plan: { kind: "sql" as const, text: `[["print", "${"x".repeat(900_000)}"]]` },
      };
      const answer = await waitUntil(
        "a submission finds the disk full",
        async () => {
          const tried = await test.api.request("POST", "/v1/jobs", { body: large });
          return tried.status !== 202 && tried;
        },
        RECOVERS_WITHIN_MS,
      );
      expect(is503(answer)).toBe(true);
      const answers = await Promise.all(routes().map((route) => call(route, gated.done.id)));
      const bad = routes().filter((_, at) => {
        const one = answers[at] as Answer;
        return one.status >= 500 && !is503(one);
      });
      expect(bad).toEqual([]);
      await gated.finish();
    } finally {
      postgres.clearDisk();
    }
    const during = await submitStubbornly("as there is room again");
    await expectNothingLost([gated.job, during]);
  });
});
