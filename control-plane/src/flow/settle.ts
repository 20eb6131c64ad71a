import {
  type EngineResult,
  type ErrorInfo,
  type FoundKey,
  type FromNode,
  HEAD_BYTES_MAX,
  type JobSpec,
  LEASE_TTL_MS,
  mintId,
  TASKS_PER_JOB_MAX,
  type TaskStatus,
} from "@frazil/contracts";
import { decideAfterFailure, decideAfterRelease, RELEASES_MAX } from "../domain/after-failure.ts";
import { mayLeaveFiles } from "../domain/leftovers.ts";
import {
  type AttemptKey,
  type Deps,
  type JobRow,
  type Locked,
  type LockedJob,
  type NewResult,
  type OpenTask,
  type Sql,
  type StopBatch,
  type TaskOutcome,
  type Transaction,
  topics,
} from "./deps.ts";

type SettleDeps = Pick<Deps, "db" | "pool" | "changes" | "dispatcher" | "endings" | "log">;

export type Finished = Extract<FromNode, { type: "finished" }>;

/** An attempt's end as the flow decided it, with what it yielded. */
export interface Settlement {
  readonly outcome: TaskOutcome;
  readonly result?: { readonly result: EngineResult; readonly head: string | null };
  readonly keys?: readonly FoundKey[];
  /** It succeeded, and yet something of it lies in storage that is to be removed when the job has ended. */
  readonly leftovers?: boolean;
}

/** What became of a batch, for those to be told after the commit. */
export interface Settled {
  readonly jobs: readonly JobRow[];
  readonly results: readonly NewResult[];
  /** Jobs of which attempts were ended that nodes are still at. */
  readonly cancelled: readonly string[];
  /** Jobs of which this batch's failure stops the rest. */
  readonly stopping: readonly string[];
}

/** A lost or failed attempt: tried again, or failed, as the error table and the attempts left say. */
export function settleFailure(
  task: OpenTask,
  error: ErrorInfo,
  options: { retryable: boolean; attemptStatus: "failed" | "lost"; usage: TaskOutcome["usage"] },
): Settlement {
  const after = decideAfterFailure(
    {
      code: error.code,
      retryable: options.retryable,
      tries: task.attempt - task.releases,
      attemptsMax: task.attempts_max,
      publishing: task.publishing,
    },
    Math.random(),
  );
  const common = { task, attemptStatus: options.attemptStatus, error, usage: options.usage, splitState: undefined };
  if (after.kind === "retry") return { outcome: { ...common, event: "requeue", delayMs: after.delayMs } };
  return { outcome: { ...common, event: "fail", delayMs: 0 } };
}

const RELEASED: ErrorInfo = {
  code: "node_lost",
  message: `Nodes gave this task back more than ${RELEASES_MAX} times without running it.`,
  hint: "Look at the logs of the cluster's nodes; retry the job once they stay up.",
};

/** A task that a node gave back without running it: goes to the next one, but not for ever. */
export function settleRelease(task: OpenTask): Settlement {
  const after = decideAfterRelease(task.releases + 1, Math.random());
  const common = { task, attemptStatus: "released", usage: null, splitState: undefined } as const;
  if (after.kind === "fail") return { outcome: { ...common, event: "fail", error: RELEASED, delayMs: 0 } };
  return { outcome: { ...common, event: "requeue", error: null, delayMs: after.delayMs } };
}

/** Writes the ends of attempts, their results and keys, and what follows for their jobs. The caller's transaction has locked the tasks. */
export async function settle(
  deps: SettleDeps,
  sql: Transaction,
  locked: readonly LockedJob[],
  settlements: readonly Settlement[],
): Promise<Settled> {
  const byJob = Map.groupBy(settlements, (one) => one.outcome.task.job_id);
  // Ends of jobs touch their clusters: in one order, by everyone.
  const ordered = locked
    .filter((job) => byJob.has(job.id))
    .sort((a, b) => Buffer.compare(Buffer.from(a.cluster_id ?? ""), Buffer.from(b.cluster_id ?? "")));
  const results = resultsOf(settlements);
  // None of these needs the answer of another: they go out together, in this order.
  const written = Promise.all([
    deps.db.tasks.applyOutcomes(
      sql,
      settlements.map((one) => one.outcome),
    ),
    results.length === 0 ? undefined : deps.db.results.insertResults(sql, results),
    ...ordered.map((job) => settleJob(deps, sql, job, byJob.get(job.id) as Settlement[])),
  ]);
  // And so does the commit, where none of the answers could ask for more.
  if (isPlain(locked, settlements)) sql.finish();
  const [, , ...jobs] = await written;
  const stopping: string[] = [];
  for (const job of jobs) if (job.finished_at === null && (await stopsRest(deps, sql, job))) stopping.push(job.id);
  return { jobs, results, cancelled: [], stopping };
}

/** Tasks that succeeded, of jobs of which none has failed: nothing is to be looked up for them, and nothing is to be stopped. */
function isPlain(jobs: readonly LockedJob[], settlements: readonly Settlement[]): boolean {
  return (
    jobs.every((job) => job.tasks_failed === 0) &&
    settlements.every(({ outcome, keys }) => outcome.event === "finish" && keys === undefined)
  );
}

/** What the ends of some of its attempts make of a job. It is locked, so that its counts are known before they are written. */
async function settleJob(
  deps: SettleDeps,
  sql: Sql,
  job: LockedJob,
  settlements: readonly Settlement[],
): Promise<JobRow> {
  const tally = tallyOf(job.id, settlements);
  const keys = settlements.flatMap(({ outcome, keys }) =>
    (keys ?? []).map((key) => ({ id: mintId("task"), parent: outcome.task, ...key })),
  );
  const [counted] = await Promise.all([
    deps.db.jobEnds.tallyJob(sql, job, tally),
    keys.length === 0 ? undefined : deps.db.jobTasks.insertKeyTasks(sql, job.id, keys),
  ]);
  return counted;
}

export const NOTHING_COUNTED = { succeeded: 0, failed: 0, cancelled: 0, splitsDone: 0, added: 0, leftovers: false };

/** A split task that is done becomes its keys; one that failed counts as one failed task. */
function tallyOf(jobId: string, settlements: readonly Settlement[]) {
  const tally = { jobId, ...NOTHING_COUNTED };
  for (const { outcome, keys, leftovers } of settlements) {
    if (leftovers || mayLeaveFiles({ status: outcome.attemptStatus, code: outcome.error?.code }))
      tally.leftovers = true;
    const isSplit = outcome.task.kind === "split";
    if (outcome.event === "requeue") continue;
    if (isSplit) tally.splitsDone += 1;
    if (outcome.event === "fail") tally.failed += 1;
    if (outcome.event === "finish" && !isSplit) tally.succeeded += 1;
    tally.added += isSplit ? (outcome.event === "fail" ? 1 : (keys?.length ?? 0)) : 0;
  }
  return tally;
}

function resultsOf(settlements: readonly Settlement[]): NewResult[] {
  return settlements.flatMap(({ outcome, result }) => {
    return result === undefined ? [] : [{ task: outcome.task, result: result.result, head: headOf(result.head) }];
  });
}

/** The head as it is kept: none, where a node sends more than it may. */
function headOf(base64: string | null): Buffer | null {
  const head = base64 === null ? null : Buffer.from(base64, "base64");
  return head !== null && head.length <= HEAD_BYTES_MAX ? head : null;
}

/** `on_failure="cancel"`: the first failure stops the rest. */
async function stopsRest(deps: SettleDeps, sql: Sql, job: JobRow): Promise<boolean> {
  if (job.tasks_failed === 0 || (job.spec as JobSpec).onFailure !== "cancel") return false;
  return deps.db.jobs.requestStop(sql, job.id, null);
}

/** Records one success that ends its job: a single query's. False: it is not that, or its attempt is not live. */
export async function settleSingle(deps: SettleDeps, nodeId: string, message: Finished): Promise<boolean> {
  const { taskId, attempt, outcome, usage } = message;
  if (outcome.kind !== "succeeded") return false;
  const kept = { result: outcome.result, head: headOf(outcome.head) };
  const job = await deps.db.jobEnds.finishSingle(deps.pool, { ...kept, taskId, attempt, nodeId, usage });
  if (job === undefined) return false;
  const task = { id: taskId, job_id: job.id, ordinal: 0, attempt };
  announceSettled(deps, { ...NOTHING_SETTLED, jobs: [job], results: [{ task, ...kept }] });
  return true;
}

/** Tells nodes and waiters what a committed batch changed. */
export function announceSettled(deps: SettleDeps, settled: Settled): void {
  for (const jobId of settled.cancelled) deps.changes.notify(topics.cancel(jobId));
  for (const jobId of settled.stopping)
    stopJob(deps, jobId).catch((error) => deps.log.warn({ err: error, job: jobId }, "could not stop a job yet"));
  keepEndings(deps, settled);
  for (const job of settled.jobs) {
    deps.changes.notify(topics.job(job.id));
    if (job.finished_at !== null) deps.changes.notify(topics.jobEnd(job.id));
    else if (job.cluster_id !== null) deps.changes.notify(topics.room(job.cluster_id));
    if (job.finished_at !== null) {
      deps.log.info(
        {
          job: job.id,
          status: job.status,
          succeeded: job.tasks_succeeded,
          failed: job.tasks_failed,
          cancelled: job.tasks_cancelled,
        },
        "job ended",
      );
    }
  }
}

function keepEndings(deps: SettleDeps, { jobs, results }: Settled): void {
  for (const job of jobs) {
    if (job.finished_at === null) continue;
    const own = job.mode === "single" ? results.find(({ task }) => task.job_id === job.id) : undefined;
    // Its result was recorded before, and stands in the database alone.
    if (job.mode === "single" && job.status === "succeeded" && own === undefined) continue;
    deps.endings.keep({ job, result: own === undefined ? null : deps.db.results.asRead(own, job.spec.output.format) });
  }
}

export const KEYS_LIMIT_ERROR: ErrorInfo = {
  code: "limit_exceeded",
  message: `The keys would make more than ${TASKS_PER_JOB_MAX} tasks in one job.`,
  hint: "Split the submission into several jobs, or choose a coarser key.",
};

const LOST: ErrorInfo = { code: "node_lost", message: "The node that ran this task stopped answering." };

/** What one transaction takes of something that may have very many rows: others wait for its locks. */
const LOST_BATCH_MAX = 500;
const STOP_BATCH_MAX = 2_000;

/** Gives back what a node held, but for the attempts that it says it still has: all of it when the node is gone. */
export async function requeueHeld(deps: SettleDeps, nodeId: string, has: readonly AttemptKey[] = []): Promise<void> {
  await settleLost(deps, (sql) => deps.db.tasks.lockHeldBy(sql, nodeId, has, LOST_BATCH_MAX));
}

/** Step: gives back tasks whose lease ran out. The database's clock decides. */
export async function expire(deps: SettleDeps): Promise<void> {
  await settleLost(deps, async (sql) => {
    const expired = await deps.db.tasks.lockExpired(sql, LOST_BATCH_MAX);
    // Nobody could renew a lease while Postgres or every control plane was away, and Postgres may have been while it was asked this very question:
    // nodes get time to come back.
    return deps.changes.healthyForMs() < LEASE_TTL_MS ? { jobs: [], tasks: [] } : expired;
  });
}

/** Batch after batch: each takes what it found off its node, so that there is less at the next look. */
async function settleLost(deps: SettleDeps, lock: (sql: Sql) => Promise<Locked>): Promise<void> {
  for (;;) {
    const { settled, found } = await deps.pool.transact(async (sql) => {
      const { jobs, tasks } = await lock(sql);
      if (tasks.length === 0) return { settled: undefined, found: 0 };
      deps.log.warn({ tasks: tasks.length, nodes: [...new Set(tasks.map((task) => task.node_id))] }, "leases lost");
      const ends = tasks.map((task) =>
        settleFailure(task, LOST, { retryable: true, attemptStatus: "lost", usage: null }),
      );
      return { settled: await settle(deps, sql, jobs, ends), found: tasks.length };
    });
    if (settled !== undefined) announceSettled(deps, settled);
    if (found < LOST_BATCH_MAX) return;
  }
}

/**
 * Ends a job for a reason that lies outside its tasks (its cluster can't be had): what is open of it fails, and what runs is stopped. What somebody asked to
 * cancel before is cancelled; of that job only what is being published is left, and fails if no node is at it.
 */
export async function endJobWithout(deps: SettleDeps, jobId: string, error: ErrorInfo): Promise<void> {
  await stopJob(deps, jobId);
  await deps.db.jobs.requestStop(deps.pool, jobId, error);
  await stopJob(deps, jobId);
}

/**
 * What of a job's tasks is ended, in this order: those on nodes first, whose engines are to hear of it; what waits; and what came to wait, or was leased,
 * just as the stop was asked for.
 */
const STOP_ROUNDS: readonly TaskStatus[] = ["leased", "running", "queued", "queued", "leased", "running"];

/**
 * Step: ends what is open of a job that was asked to stop. In transactions of bounded size: the job's other writers, and with them all who record together
 * with them, get their turn in between.
 */
export async function stopJob(deps: SettleDeps, jobId: string): Promise<void> {
  for (const status of STOP_ROUNDS) {
    let from = 0;
    let found: number;
    do {
      const limit = STOP_BATCH_MAX;
      const batch = await deps.pool.transact((sql) => stopBatch(deps, sql, { jobId, status, from, limit }));
      if (batch === undefined) return;
      announceSettled(deps, batch.settled);
      found = batch.found;
      from = batch.next;
    } while (found >= STOP_BATCH_MAX);
  }
}

const NOTHING_SETTLED: Settled = { jobs: [], results: [], cancelled: [], stopping: [] };

async function stopBatch(deps: SettleDeps, sql: Sql, batch: StopBatch) {
  const job = await deps.db.jobs.lockStopping(sql, batch.jobId);
  if (job === undefined) return undefined;
  const isFailing = job.error !== null;
  const { found, last, ended, splits, onNodes } = await deps.db.jobTasks[isFailing ? "failTasks" : "cancelTasks"](
    sql,
    batch,
  );
  // Behind these the next batch begins: it need not walk past what this one ended.
  const next = last === null ? batch.from : last + 1;
  if (ended === 0) return { settled: NOTHING_SETTLED, found, next };
  const counted = await deps.db.jobEnds.tallyJob(sql, job, {
    jobId: job.id,
    ...NOTHING_COUNTED,
    failed: isFailing ? ended : 0,
    cancelled: isFailing ? 0 : ended,
    splitsDone: splits,
    added: splits,
    leftovers: onNodes > 0,
  });
  const settled: Settled = {
    jobs: [counted],
    results: [],
    cancelled: onNodes > 0 ? [job.id] : [],
    stopping: [],
  };
  return { settled, found, next };
}

/** Step: ends a job of which nothing is open. */
export async function finish(deps: SettleDeps, jobId: string): Promise<void> {
  const job = await deps.pool.transact(async (sql) => {
    const row = await deps.db.jobs.lockJob(sql, jobId);
    return row === undefined ? undefined : deps.db.jobEnds.tallyJob(sql, row, { jobId, ...NOTHING_COUNTED });
  });
  if (job !== undefined) announceSettled(deps, { ...NOTHING_SETTLED, jobs: [job] });
}
