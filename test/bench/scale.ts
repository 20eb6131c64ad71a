import type { Job } from "@frazil/contracts";
import { Client } from "pg";
import { type Api, NDJSON } from "../harness/api.ts";
import { manyFrames, type SpecInput } from "../harness/submissions.ts";
import { waitUntil } from "../harness/wait-until.ts";
import { type Benchmark, type Options, say } from "./benchmark.ts";
import { type LightInstallation, withLightInstallation } from "./light/installation.ts";
import { peakMemoryMiB, resetPeakMemory, startCpuMeter } from "./processes.ts";
import { profileNote } from "./profile.ts";
import type { Finding, Measurement, Ratio } from "./report.ts";
import { percentile } from "./statistics.ts";

const SMALL = 10_000;
const LARGE = 100_000;
/** As many tasks in small jobs as in a large one, in as long a time: what is done beside tasks (vacuums, checkpoints) falls into both. */
const SMALL_JOBS = LARGE / SMALL;
const NODES = 4;
const CPUS = 4;
/** Every so many frames fail, in as many kinds as there are digits. */
const FAILS_EVERY = 50;
const LOG_LINES = 100_000;
const READS = 100;
const WARMUP_READS = 10;
const GOAL_READ_MS = 100;
const JOB_MS_MAX = 900_000;
const GOAL_CANCEL_S = 5;
/** Tasks take so long while the pages of their job are read, so that it goes on all the time. */
const SLOW_TASK_MS = 1_000;

export const scale: Benchmark = {
  title: `${LARGE.toLocaleString("en-US")} tasks: memory, cost per task, and pages`,
  run: (options) => withLightInstallation({ planes: 1, nodeProcesses: 1 }, (light) => runScale(light, options)),
};

async function runScale(light: LightInstallation, options: Options): Promise<Finding> {
  const clusterId = await light.startCluster({ cpus: CPUS, memoryGiB: 1, clusterSize: NODES });
  const where = { context: null, clusterId };
  await runJobs(light, where, 1, 1_000);
  say(`${SMALL_JOBS} times ${SMALL} tasks ...`);
  const small = await runJobs(light, where, SMALL_JOBS, SMALL);
  say(`${LARGE} tasks ...`);
  const large = await runJobs(light, where, 1, LARGE);
  await insertLogs(light, large.job.id);
  say("pages of an ended job ...");
  const ended = await readPages(light.api, large.job.id, "ended");
  say("pages while another such job runs ...");
  const running = await submit(light, where, LARGE);
  await waitUntil(
    "tasks have ended",
    async () => (await light.api.job(running.id)).counts.succeeded > SMALL,
    JOB_MS_MAX,
  );
  light.setTaskMs(SLOW_TASK_MS);
  const during = [
    ...(await readPages(light.api, large.job.id, "ended, another one runs")),
    ...(await readPages(light.api, running.id, "runs")),
  ];
  const after = await light.api.job(running.id);
  if (after.finishedAt !== null) throw new Error("the job ended before its pages were read: raise SLOW_TASK_MS");
  await light.api.post(`/v1/jobs/${running.id}/cancel`);
  say("cancel of jobs that just began ...");
  const cancels = [await cancelOne(light, where, SMALL), await cancelOne(light, where, LARGE)];
  const worst = [...ended, ...during].reduce((one, other) => (other.p99 > one.p99 ? other : one));
  const costs: Ratio[] = [
    { name: "peak memory of the control plane, 100,000 over 10,000 tasks", value: large.peakMiB / small.peakMiB },
    {
      name: "CPU per task of control plane and Postgres, 100,000 over 10,000",
      goal: "about 1",
      value: large.cpuMs / small.cpuMs,
    },
    {
      name: `cancel of ${LARGE.toLocaleString("en-US")} tasks, in s`,
      value: cancels.at(-1)?.seconds ?? 0,
      goal: `under ${GOAL_CANCEL_S}`,
    },
    { name: `slowest page, p99 in ms (${worst.measurement.subject})`, value: worst.p99, goal: `under ${GOAL_READ_MS}` },
  ];
  return {
    measurements: [
      small.measurement,
      large.measurement,
      ...cancels.map((one) => one.measurement),
      ...[...ended, ...during].map((one) => one.measurement),
    ],
    ratios: costs,
    notes: [
      `${NODES} light nodes of ${CPUS} slots (they answer at once, without an engine) and the one who reads share the machine with the control plane and Postgres.`,
      ...(options.profile ? [small.profile, large.profile] : []),
    ],
  };
}

type Where = Pick<SpecInput, "context" | "clusterId">;

let submissions = 0;

/** A job of so many tasks, whose plans no other job has. */
async function submit(light: LightInstallation, where: Where, count: number): Promise<Job> {
  submissions += 1;
  const plans = Array.from({ length: count }, (_, n) => {
    const plan = `frame ${submissions} ${n}`;
    return n % FAILS_EVERY === 1 ? `${plan} fails ${Math.floor(n / FAILS_EVERY) % 10}` : plan;
  });
  const body = manyFrames(plans, [...plans.keys()], where);
  const response = await fetch(`${light.api.address}/v1/jobs`, {
    method: "POST",
    headers: { authorization: `Bearer ${light.api.token}`, "content-type": NDJSON },
    body,
  });
  if (!response.ok) throw new Error(`submitting answered ${response.status}: ${await response.text()}`);
  return (await response.json()) as Job;
}

/** Runs so many jobs of so many tasks, one after the other. */
async function runJobs(light: LightInstallation, where: Where, jobs: number, count: number) {
  const { pid } = light.planes[0] as { pid: number };
  const peaks = { submission: 0, run: 0 };
  let submitMs = 0;
  const meter = startCpuMeter(pid, { postgres: light.postgresPid });
  const startedAt = performance.now();
  let job: Job | undefined;
  for (let at = 0; at < jobs; at++) {
    resetPeakMemory(pid);
    const submittingAt = performance.now();
    const { id } = await submit(light, where, count);
    submitMs += performance.now() - submittingAt;
    peaks.submission = Math.max(peaks.submission, peakMemoryMiB(pid));
    resetPeakMemory(pid);
    job = await awaitEnd(light, id);
    peaks.run = Math.max(peaks.run, peakMemoryMiB(pid));
    const failed = Math.ceil((count - 1) / FAILS_EVERY);
    if (job.counts.failed !== failed || job.counts.succeeded !== count - failed)
      throw new Error(`the job's counts are off: ${JSON.stringify(job.counts)}`);
  }
  const seconds = (performance.now() - startedAt) / 1_000;
  const byRole = meter.read();
  const tasks = jobs * count;
  const cpuMs = (Object.values(byRole).reduce((sum, one) => sum + one, 0) * 1_000) / tasks;
  const measurement: Measurement = {
    subject: `${jobs > 1 ? `${jobs} jobs, one by one, of ` : "a job of "}${count.toLocaleString("en-US")} tasks`,
    figures: {
      "tasks/s": tasks / seconds,
      "submitted after s": submitMs / jobs / 1_000,
      "CPU ms per task": cpuMs,
      "peak MiB, submission": peaks.submission,
      "peak MiB, run": peaks.run,
    },
  };
  return {
    job: job as Job,
    measurement,
    cpuMs,
    peakMiB: Math.max(peaks.submission, peaks.run),
    profile: profileNote(byRole, tasks, "tasks on light nodes"),
  };
}

async function awaitEnd(light: LightInstallation, jobId: string): Promise<Job> {
  return waitUntil(
    "the job has ended",
    async () => {
      const now = await light.api.get<Job>(`/v1/jobs/${jobId}/wait?timeout=20`);
      return now.finishedAt === null ? undefined : now;
    },
    JOB_MS_MAX,
  );
}

/** From the call until the job and all of its tasks have ended, while nodes are at the first of them. */
async function cancelOne(light: LightInstallation, where: Where, count: number) {
  const { id } = await submit(light, where, count);
  await waitUntil("nodes are at it", async () => (await light.api.job(id)).counts.running > 0, JOB_MS_MAX);
  const meter = startCpuMeter((light.planes[0] as { pid: number }).pid, { postgres: light.postgresPid });
  const startedAt = performance.now();
  await light.api.post(`/v1/jobs/${id}/cancel`);
  const answeredAt = performance.now();
  const job = await awaitEnd(light, id);
  const seconds = (performance.now() - startedAt) / 1_000;
  const { cancelled, succeeded, failed } = job.counts;
  if (job.status !== "cancelled" || cancelled + succeeded + failed !== count)
    throw new Error(`the cancelled job's counts are off: ${JSON.stringify(job)}`);
  const cpu = meter.read();
  const figures = {
    "cancelled after s": seconds,
    "answered after s": (answeredAt - startedAt) / 1_000,
    "CPU s of Postgres": cpu.postgres ?? 0,
    "CPU s of the control plane": cpu["control plane"] ?? 0,
  };
  return { seconds, measurement: { subject: `cancel of ${count.toLocaleString("en-US")} tasks`, figures } };
}

/** Straight into the table: this is about reading them. */
async function insertLogs(light: LightInstallation, jobId: string): Promise<void> {
  const client = new Client({ connectionString: light.databaseUrl });
  await client.connect();
  try {
    await client.query(
      `INSERT INTO logs (workspace_id, job_id, task_id, attempt, seq, stream, at, text)
        SELECT workspace_id, job_id, id, 1, 0, 'stdout', now(), 'a line of what the code of task ' || id || ' printed'
        FROM tasks WHERE job_id = $1 ORDER BY ordinal LIMIT $2`,
      [jobId, LOG_LINES],
    );
    await client.query("UPDATE jobs SET log_lines = $2 WHERE id = $1", [jobId, LOG_LINES]);
  } finally {
    await client.end();
  }
}

interface Read {
  readonly measurement: Measurement;
  readonly p99: number;
}

/** Every page that a person or a client looks at, in turn. */
async function readPages(api: Api, jobId: string, state: string): Promise<Read[]> {
  const job = `/v1/jobs/${jobId}`;
  const logs = await api.get<{ items: { id: string }[] }>(`${job}/logs?limit=1`);
  const deepLog = Number(logs.items[0]?.id ?? 0) + LOG_LINES - 100;
  const pages: Record<string, string> = {
    "list of jobs": "/v1/jobs",
    "list of jobs that run": "/v1/jobs?status=running",
    "job, with counts": job,
    "tasks, first page": `${job}/tasks`,
    "tasks, page at 90%": `${job}/tasks?cursor=${LARGE * 0.9}`,
    "tasks, 1,000": `${job}/tasks?limit=1000`,
    "failed tasks": `${job}/tasks?status=failed`,
    "queued tasks": `${job}/tasks?status=queued`,
    "running tasks": `${job}/tasks?status=running`,
    "results, first page": `${job}/results`,
    "results, page at 90%": `${job}/results?cursor=${LARGE * 0.9}`,
    "results, 1,000": `${job}/results?limit=1000`,
    failures: `${job}/failures`,
    "logs, first page": `${job}/logs`,
    "logs, last page": `${job}/logs?cursor=${deepLog}`,
  };
  const times = new Map(Object.keys(pages).map((name) => [name, [] as number[]]));
  for (let turn = 0; turn < WARMUP_READS + READS; turn++) {
    for (const [name, path] of Object.entries(pages)) {
      const startedAt = performance.now();
      await api.get(path);
      if (turn >= WARMUP_READS) times.get(name)?.push(performance.now() - startedAt);
    }
  }
  return [...times].map(([name, found]) => {
    const p99 = percentile(found, 0.99);
    const subject = `${name} (${state})`;
    const figures = { "p50 ms": percentile(found, 0.5), "p99 ms": p99 };
    if (p99 > GOAL_READ_MS) say(`${subject}: p50 ${figures["p50 ms"].toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`);
    return { measurement: { subject, figures }, p99 };
  });
}
