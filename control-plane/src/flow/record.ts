import { type ErrorInfo, TASKS_PER_JOB_MAX } from "@frazil/contracts";
import { makeBatcher } from "./batcher.ts";
import type { AttemptKey, Deps, OpenTask, StartedAttempt } from "./deps.ts";
import {
  announceSettled,
  type Finished,
  KEYS_LIMIT_ERROR,
  type Settlement,
  settle,
  settleFailure,
  settleRelease,
  settleSingle,
} from "./settle.ts";

type RecordDeps = Pick<Deps, "db" | "pool" | "changes" | "dispatcher" | "endings" | "log">;
/** Starts are written together, and not at all for tasks that ended before. Nodes wait longer than this with telling of them. */
const START_DELAY_MS = 10;
/** A task that somebody has locked is told as started a little later; not for ever. */
const START_TRIES_MAX = 400;
/** Reports that may wait for the database before nodes that finish are given less. */
const REPORTS_WAITING_MAX = 1_000;

const startKey = ({ nodeId, taskId }: Pick<StartedAttempt, "nodeId" | "taskId">) => `${nodeId} ${taskId}`;

export interface Report {
  readonly nodeId: string;
  readonly message: Finished;
}

export interface Recorder {
  /** True when the attempt was live and is now recorded; false when it was stale. */
  finished(report: Report): Promise<boolean>;
  /** So many reports wait that what they end should not be replaced yet: nodes may be quicker than the database. */
  isBehind(): boolean;
  /** A hint for those who watch: a task that ends soon after is never seen as running. */
  started(nodeId: string, attempts: readonly AttemptKey[]): void;
}

/** Records what nodes report, many reports in one transaction when they come together. Only the live attempt of a task may record. */
export function makeRecorder(deps: RecordDeps): Recorder {
  const record = makeBatcher<Report, boolean>((reports) => recordBatch(deps, reports));
  const starts = new Map<string, StartedAttempt & { tries: number }>();
  let waiting = 0;
  let isScheduled = false;
  const flush = async () => {
    isScheduled = false;
    const told = new Map(starts);
    starts.clear();
    if (told.size === 0) return;
    for (const locked of await deps.db.tasks.startTasks(deps.pool, [...told.values()]))
      add(locked, (told.get(startKey(locked))?.tries ?? 0) + 1);
  };
  const add = (attempt: StartedAttempt, tries: number) => {
    if (tries > START_TRIES_MAX) return;
    starts.set(startKey(attempt), { ...attempt, tries });
    if (isScheduled) return;
    isScheduled = true;
    const flushed = () => flush().catch((error) => deps.log.warn({ err: error }, "starts not recorded"));
    setTimeout(flushed, START_DELAY_MS);
  };
  return {
    async finished(report) {
      starts.delete(startKey({ nodeId: report.nodeId, taskId: report.message.taskId }));
      waiting += 1;
      try {
        return await record(report);
      } finally {
        waiting -= 1;
      }
    },
    isBehind: () => waiting > REPORTS_WAITING_MAX,
    started(nodeId, attempts) {
      for (const { taskId, attempt } of attempts) add({ taskId, attempt, nodeId }, 1);
    },
  };
}

async function recordBatch(deps: RecordDeps, reports: readonly Report[]): Promise<boolean[]> {
  const [first] = reports;
  if (reports.length === 1 && first !== undefined && (await settleSingle(deps, first.nodeId, first.message)))
    return [true];
  const { settled, live } = await deps.pool.transact(async (sql) => {
    const taskIds = [...new Set(reports.map((report) => report.message.taskId))];
    const [jobs, open] = await Promise.all([
      deps.db.tasks.lockJobsOf(sql, taskIds),
      deps.db.tasks.lockActive(sql, taskIds),
    ]);
    const roomOf = new Map(jobs.map((job) => [job.id, TASKS_PER_JOB_MAX - job.tasks_total]));
    const byId = new Map(open.map((task) => [task.id, task]));
    const chosen = new Map<string, Settlement>();
    const accepted = reports.map((report) => {
      const task = byId.get(report.message.taskId);
      if (task === undefined || !isLive(task, report) || chosen.has(task.id)) return false;
      const settlement = decide(task, report.message, roomOf.get(task.job_id) ?? 0);
      roomOf.set(task.job_id, (roomOf.get(task.job_id) ?? 0) - (settlement.keys?.length ?? 0));
      chosen.set(task.id, settlement);
      return true;
    });
    if (chosen.size === 0) return { settled: undefined, live: accepted };
    return { settled: await settle(deps, sql, jobs, [...chosen.values()]), live: accepted };
  });
  if (settled !== undefined) announceSettled(deps, settled);
  const refused = reports.filter((_, at) => !live[at]).map(({ message }) => message);
  await deps.db.sweeps
    .sweepAgain(deps.pool, refused, 0)
    .catch((error) => deps.log.warn({ err: error }, "late attempts not noted for sweeping"));
  return live;
}

/** The attempt's number is the fencing token. */
function isLive(task: OpenTask, report: Report): boolean {
  return task.attempt === report.message.attempt && task.node_id === report.nodeId;
}

const UNFIT: ErrorInfo = {
  code: "internal",
  message: "The node answered with something other than what this task yields.",
};

/** Only a task that looks for keys answers with keys, and it answers with nothing else. */
function fits(task: OpenTask, { outcome }: Finished): boolean {
  if (outcome.kind === "succeeded") return task.kind !== "split";
  return outcome.kind !== "split" || task.kind === "split";
}

/** `room`: how many tasks the job may still get. */
function decide(task: OpenTask, message: Finished, room: number): Settlement {
  const { outcome, usage } = message;
  const common = { task, error: null, delayMs: 0, usage, splitState: undefined };
  if (!fits(task, message)) return settleFailure(task, UNFIT, { retryable: false, attemptStatus: "failed", usage });
  switch (outcome.kind) {
    case "succeeded":
      return {
        outcome: { ...common, event: "finish", attemptStatus: "succeeded" },
        result: { result: outcome.result, head: outcome.head },
      };
    case "split":
      if (outcome.keys.length > room)
        return settleFailure(task, KEYS_LIMIT_ERROR, { retryable: false, attemptStatus: "failed", usage });
      return {
        outcome: { ...common, event: "finish", attemptStatus: "succeeded", splitState: outcome.splitState },
        keys: outcome.keys,
        leftovers: outcome.stored === true,
      };
    case "failed":
      return settleFailure(task, outcome.error, { retryable: outcome.retryable, attemptStatus: "failed", usage });
    case "released":
      return settleRelease(task);
    case "returned":
      return { outcome: { ...common, event: "requeue", attemptStatus: "returned" } };
  }
}
