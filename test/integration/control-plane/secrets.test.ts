import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startTestControlPlane, type TestControlPlane, type WarmCluster } from "../../harness/control-plane.ts";
import { readEvents } from "../../harness/events.ts";
import type { LeasedRun } from "../../harness/fake-node.ts";
import { failed, manyFrames, oneQuery, planBytesOf, SHAPE, splitInto, succeeded } from "../../harness/submissions.ts";

/** Stands for whatever must not be seen. */
const MARKER = "hunter2-correct-horse";
const ENCODED = Buffer.from(`begins ${MARKER} ends`).toString("base64");
/** The marker itself, and what is in the middle of its base64 however it is aligned. */
const TRACES = [
  MARKER,
  ...[0, 1, 2].map((shift) => {
    const text = Buffer.from(`${"x".repeat(shift)}${MARKER}`).toString("base64");
    return text.slice(4, -4);
  }),
];

const SECRETS = {
  context: { ...SHAPE, env: { TOKEN: `env ${MARKER}` } },
  output: {
    destination: "s3://bucket/out",
    format: "parquet" as const,
    storageOptions: { aws_secret_access_key: `storage ${MARKER}` },
  },
  partitionBy: { keys: [{ name: "day", expr: ENCODED }] },
};
const CONTENT = `a plan with ${MARKER} in it`;

let test: TestControlPlane;
let warm: WarmCluster;
const answers: string[] = [];
const jobs: string[] = [];
let leased: LeasedRun[];

/** Submissions that succeed, fail, are retried, cancelled and refused, all with secrets in them. */
beforeAll(async () => {
  test = await startTestControlPlane();
  await test.sql("UPDATE workspaces SET keep_heads = false WHERE id = $1", [test.otherWorkspaceId]);
  warm = await test.warmCluster();
  const { node } = warm;
  const one = await warm.submitAndTake({ ...SECRETS, partitionBy: null }).then(async (taken) => {
    await node.finish(taken.task, failed("storage_refused", "access denied", false));
    return taken;
  });
  const split = await warm.submitAndTake(SECRETS);
  await node.finish(split.task, splitInto(2));
  const keys = await node.takeRun();
  for (const task of keys.run.tasks) await node.finish(task, succeeded());
  const stream = await test.api.submit(manyFrames([CONTENT], [0, 0], { ...SECRETS, clusterId: warm.clusterId }));
  await test.api.post(`/v1/jobs/${stream.id}/cancel`);
  const retry = await test.api.post<{ id: string }>(`/v1/jobs/${one.job.id}/retry`);
  jobs.push(one.job.id, split.job.id, stream.id, retry.id);
  leased = [one, split, keys];
  for (const body of refusedBodies()) {
    const answer = await test.api.request("POST", "/v1/jobs", { body });
    expect(answer.status).toBeGreaterThanOrEqual(400);
    answers.push(JSON.stringify(answer.body));
  }
});
afterAll(() => test.close());

function refusedBodies(): unknown[] {
  const spec = { client: { polars: "2.1.0", python: "3.11" }, ...SECRETS };
  return [
    `{"spec": "${MARKER}`,
    { spec: { ...spec, priority: MARKER }, plan: { kind: "sql", text: MARKER } },
    { spec: { ...spec, context: { ...SHAPE, env: { "not a name": MARKER } } }, plan: { kind: "sql", text: "x" } },
    { spec: { ...spec, output: { storageOptions: { key: [MARKER] } } }, plan: { kind: "sql", text: "x" } },
    { spec: { ...spec, output: { options: { storage_options: { key: MARKER } } } }, plan: { kind: "sql", text: "x" } },
    { spec, plan: { kind: "dsl", data: ENCODED } },
    { spec: { ...spec, name: `${MARKER}\u0000` }, plan: { kind: "sql", text: "x" } },
  ];
}

const tracesIn = (text: string) => TRACES.filter((trace) => text.includes(trace));

describe("secrets of a submission", () => {
  it("reach the node that runs it", () => {
    const [one, split] = leased;
    expect(one?.template).toMatchObject({ env: SECRETS.context.env, output: SECRETS.output });
    expect(split?.template.partitionBy).toMatchObject(SECRETS.partitionBy);
  });

  it("are in no answer of the API, and in no event", async () => {
    const paths = ["/v1/jobs", "/v1/clusters", "/v1/me"];
    for (const id of jobs) {
      for (const part of ["", "/tasks", "/results", "/failures", "/logs"]) paths.push(`/v1/jobs/${id}${part}`);
    }
    for (const path of paths) answers.push(JSON.stringify(await test.api.get(path)));
    await test.api.post(`/v1/jobs/${jobs.at(-1)}/cancel`);
    for (const id of jobs) {
      for await (const event of readEvents(test.api, `/v1/jobs/${id}/events`)) answers.push(JSON.stringify(event));
    }
    answers.push(await (await fetch(`${test.address}/metrics`)).text());
    expect(answers.length).toBeGreaterThan(25);
    expect(tracesIn(answers.join("\n"))).toEqual([]);
  });

  it("are in no line of the log", () => {
    expect(test.logLines.length).toBeGreaterThan(10);
    expect(tracesIn(test.logLines.join("\n"))).toEqual([]);
  });

  it("are in the database only sealed: no column of any table holds a trace of them", async () => {
    const columns = await test.sql<{ schema: string; table: string; column: string; type: string }>(
      `SELECT table_schema AS schema, table_name AS table, column_name AS column, data_type AS type FROM information_schema.columns
        WHERE table_schema IN ('public', 'bullmq') AND data_type IN ('text', 'character varying', 'json', 'jsonb', 'bytea', 'ARRAY')`,
    );
    expect(columns.length).toBeGreaterThan(50);
    const found: string[] = [];
    for (const { schema, table, column, type } of columns) {
      const text = type === "bytea" ? `encode("${column}", 'escape')` : `"${column}"::text`;
      const condition = TRACES.map((_, index) => `position($${index + 1} IN ${text}) > 0`).join(" OR ");
      const rows = await test.sql(`SELECT 1 FROM "${schema}"."${table}" WHERE ${condition} LIMIT 1`, TRACES);
      if (rows.length > 0) found.push(`${table}.${column}`);
    }
    expect(found).toEqual([]);
  });

  it("would be found if they were there", async () => {
    await test.sql("UPDATE jobs SET phase = $2 WHERE id = $1", [jobs[0], MARKER]);
    expect(tracesIn(JSON.stringify(await test.api.get(`/v1/jobs/${jobs[0]}`)))).toEqual([MARKER]);
    expect(tracesIn(planBytesOf(CONTENT).toString("base64")).length).toBeGreaterThan(0);
    const sealed = await test.sql<{ sealed: Buffer }>("SELECT sealed FROM plans");
    expect(sealed.length).toBeGreaterThan(1);
  });
});

describe("the same plan of two workspaces", () => {
  it("is kept twice, under hashes that don't show that it is the same", async () => {
    const content = "a plan that both have";
    const mine = await test.api.submit(oneQuery({}, content));
    const theirs = await test.stranger.submit(oneQuery({}, content));
    const plans = await test.sql<{ workspace_id: string; hash: Buffer; sealed: Buffer }>(
      "SELECT p.workspace_id, p.hash, p.sealed FROM plans p JOIN tasks t ON t.plan_id = p.id WHERE t.job_id IN ($1, $2)",
      [mine.id, theirs.id],
    );
    expect(new Set(plans.map((plan) => plan.workspace_id)).size).toBe(2);
    expect(new Set(plans.map((plan) => plan.hash.toString("hex"))).size).toBe(2);
    expect(new Set(plans.map((plan) => plan.sealed.toString("hex"))).size).toBe(2);
    await test.api.post(`/v1/jobs/${mine.id}/cancel`);
    await test.stranger.post(`/v1/jobs/${theirs.id}/cancel`);
  });
});

describe("heads of results", () => {
  it("are not asked for where the workspace does not keep them", async () => {
    const kept = await warm.submitAndTake();
    expect(kept.template.headBytesMax).toBeGreaterThan(0);
    await warm.node.finish(kept.task, succeeded());
    const theirs = await test.warmCluster({ api: test.stranger });
    const { template, task } = await theirs.submitAndTake();
    expect(template.headBytesMax).toBe(0);
    await theirs.node.finish(task, succeeded());
  });
});
