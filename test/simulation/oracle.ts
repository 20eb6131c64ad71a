import type { JobMode, JobStatus, TaskKind, TaskStatus } from "@frazil/contracts";
import type { Asked } from "./clients.ts";
import type { Installation } from "./installation.ts";
import { plannedEnd, readScript } from "./scripts.ts";

/** What is promised, written down apart from the product: nothing here asks the product's own tables or rules. */
const MOVES: Record<string, Record<string, readonly string[]>> = {
  job: { queued: ["running", "succeeded", "failed", "cancelled"], running: ["succeeded", "failed", "cancelled"] },
  task: {
    queued: ["leased", "failed", "cancelled"],
    leased: ["running", "publishing", "succeeded", "failed", "queued", "cancelled"],
    running: ["publishing", "succeeded", "failed", "queued", "cancelled"],
    publishing: ["succeeded", "failed", "queued"],
  },
  cluster: {
    requested: ["starting", "stopping"],
    starting: ["ready", "stopping"],
    ready: ["stopping"],
    stopping: ["terminated"],
  },
  node: {
    requested: ["ready", "lost", "stopping", "terminated"],
    ready: ["lost", "stopping", "terminated"],
    lost: ["ready", "stopping", "terminated"],
    stopping: ["terminated"],
  },
};

/** Attempts beyond `attempts_max` that a publishing may take, so that none is left half-way. */
const PUBLISH_ATTEMPTS_EXTRA = 5;

interface Job {
  readonly id: string;
  readonly mode: JobMode;
  readonly status: JobStatus;
  readonly splits_open: number;
  readonly tasks_total: number;
  readonly tasks_succeeded: number;
  readonly tasks_failed: number;
  readonly tasks_cancelled: number;
  readonly idempotency_key: string | null;
  readonly retry_of: string | null;
  readonly cancel_requested_at: string | null;
  readonly error: { code: string } | null;
  readonly on_failure: string;
  readonly destination: string | null;
}

interface Task {
  readonly id: string;
  readonly job_id: string;
  readonly kind: TaskKind;
  readonly status: TaskStatus;
  readonly parent_id: string | null;
  readonly key_token: string | null;
  readonly plan_id: string;
  readonly attempt: number;
  readonly attempts_max: number;
  readonly node_id: string | null;
  readonly lease_expires_at: string | null;
  readonly manifest: { by: string } | null;
  readonly error: { code: string } | null;
}

interface Attempt {
  readonly task_id: string;
  readonly number: number;
  readonly status: string;
  readonly error: { code: string } | null;
}

export interface Move {
  readonly kind: string;
  readonly id: string;
  readonly was: string;
  readonly became: string;
  readonly at: string;
}

interface State {
  readonly jobs: Job[];
  readonly tasks: Task[];
  readonly attempts: Attempt[];
  readonly results: { task_id: string; attempt: number; rows: number }[];
  readonly plans: { id: string; sealed: string }[];
  readonly clusters: { id: string; status: string }[];
  readonly nodes: { id: string; status: string }[];
  readonly moves: Move[];
  readonly wrongs: { what: string }[];
}

const STATE = `SELECT jsonb_build_object(
  'jobs', (SELECT coalesce(jsonb_agg(to_jsonb(j) - 'sealed' || jsonb_build_object('on_failure', spec -> 'onFailure', 'destination', spec -> 'output' -> 'destination')), '[]') FROM jobs j),
  'tasks', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'split_state'), '[]') FROM tasks t),
  'attempts', (SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY task_id, number), '[]') FROM attempts a),
  'results', (SELECT coalesce(jsonb_agg(jsonb_build_object('task_id', task_id, 'attempt', attempt, 'rows', rows)), '[]') FROM results),
  'plans', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'sealed', encode(sealed, 'base64'))), '[]') FROM plans),
  'clusters', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'status', status)), '[]') FROM clusters),
  'nodes', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'status', status)), '[]') FROM nodes),
  'moves', (SELECT coalesce(jsonb_agg(to_jsonb(m) ORDER BY n), '[]') FROM moves m),
  'wrongs', (SELECT coalesce(jsonb_agg(to_jsonb(w) ORDER BY n), '[]') FROM wrongs w)) AS state`;

export interface Verdict {
  readonly faults: string[];
  readonly moves: readonly Move[];
  readonly counts: { readonly jobs: number; readonly tasks: number; readonly attempts: number };
}

/** Everything that must hold once the faults are over and time has passed. */
export async function judge(installation: Installation, asked: readonly Asked[]): Promise<Verdict> {
  const [row] = await installation.world.ask<{ state: State }>(STATE);
  const { state } = row as { state: State };
  const faults = [
    ...state.wrongs.map((wrong) => wrong.what),
    ...installation.world.complaints,
    ...judgeMoves(state.moves),
    ...state.jobs.flatMap((job) => judgeJob(job, state)),
    ...state.tasks.flatMap((task) => judgeTask(installation, task, state)),
    ...judgeAsked(asked, state),
    ...judgeMachines(installation, state),
  ];
  const { jobs, tasks, attempts } = state;
  return {
    faults,
    moves: state.moves,
    counts: { jobs: jobs.length, tasks: tasks.length, attempts: attempts.length },
  };
}

/** No move that is not in the tables; nothing leaves a final state (R9). */
function judgeMoves(moves: readonly Move[]): string[] {
  return moves
    .filter((move) => !MOVES[move.kind]?.[move.was]?.includes(move.became))
    .map((move) => `${move.kind} ${move.id} went from ${move.was} to ${move.became}`);
}

const isFinal = (status: string) => ["succeeded", "failed", "cancelled"].includes(status);

/** Terminal (R1), with counts that add up to its tasks, and the status that follows from them. */
function judgeJob(job: Job, state: State): string[] {
  const faults: string[] = [];
  const wrong = (what: string) => faults.push(`job ${job.id} (${job.mode}, ${job.status}): ${what}`);
  const tasks = state.tasks.filter((task) => task.job_id === job.id);
  const yielding = tasks.filter((task) => task.kind !== "split" || task.status !== "succeeded");
  const count = (status: TaskStatus) => yielding.filter((task) => task.status === status).length;
  if (!isFinal(job.status)) wrong("never ended");
  const counted = [job.tasks_total, job.tasks_succeeded, job.tasks_failed, job.tasks_cancelled, job.splits_open];
  const real = [yielding.length, count("succeeded"), count("failed"), count("cancelled"), 0];
  if (String(counted) !== String(real))
    wrong(`counts ${counted} but has ${real} (total, succeeded, failed, cancelled, splits open)`);
  const due = count("failed") > 0 ? "failed" : count("cancelled") > 0 ? "cancelled" : "succeeded";
  if (isFinal(job.status) && job.status !== due) wrong(`should be ${due}`);
  if ((job.status === "failed") !== (job.error !== null)) wrong(`has error ${job.error?.code}`);
  const mayCancel = job.cancel_requested_at !== null || (job.on_failure === "cancel" && count("failed") > 0);
  if (count("cancelled") > 0 && !mayCancel) wrong("has cancelled tasks, and nobody cancelled it");
  for (const task of tasks) {
    if (task.kind !== "split" || task.status !== "succeeded") continue;
    const keys = tasks.filter((one) => one.parent_id === task.id).map((one) => one.key_token);
    const expected = scriptOf(task, state).keys;
    if (new Set(keys).size !== keys.length || keys.length !== expected) wrong(`has keys ${keys} of ${expected}`);
  }
  return faults;
}

const ATTEMPT_STATUSES: Partial<Record<TaskStatus, readonly string[]>> = {
  succeeded: ["succeeded"],
  failed: ["failed", "lost"],
  cancelled: ["released", "returned", "failed", "lost"],
};

/** One result of the one attempt that succeeded (R2), bounded attempts (R8), and an end that its plan accounts for. */
function judgeTask(installation: Installation, task: Task, state: State): string[] {
  const faults: string[] = [];
  const wrong = (what: string) => faults.push(`task ${task.id} (${task.kind}, ${task.status}): ${what}`);
  const attempts = state.attempts.filter((attempt) => attempt.task_id === task.id);
  const results = state.results.filter((result) => result.task_id === task.id);
  const succeeded = attempts.filter((attempt) => attempt.status === "succeeded");
  const { published, rows, accepted } = installation.sightings;
  if (!isFinal(task.status)) wrong("never ended");
  if (task.node_id !== null || task.lease_expires_at !== null) wrong("is on a node still");
  if (attempts.some((attempt) => attempt.status === "leased")) wrong("has an attempt that never ended");
  if (attempts.some((attempt, at) => attempt.number !== at + 1) || attempts.length !== task.attempt)
    wrong(`is at attempt ${task.attempt}, and has ${attempts.map((attempt) => attempt.number)}`);
  const released = attempts.filter((attempt) => isGivenBack(attempt)).length;
  const most = task.attempts_max + released + (task.manifest === null ? 0 : PUBLISH_ATTEMPTS_EXTRA);
  if (attempts.length > most) wrong(`took ${attempts.length} attempts, of which ${released} were given back`);
  if (succeeded.length !== (task.status === "succeeded" ? 1 : 0))
    wrong(`has ${succeeded.length} attempts that succeeded`);
  const last = attempts.at(-1);
  if (
    last !== undefined &&
    isFinal(task.status) &&
    !ATTEMPT_STATUSES[task.status]?.includes(last.status) &&
    !isWithout(task)
  )
    wrong(`its last attempt is ${last.status}`);
  const yields = task.status === "succeeded" && task.kind !== "split";
  if (results.length !== (yields ? 1 : 0)) wrong(`has ${results.length} results`);
  for (const result of results) {
    if (result.attempt !== succeeded[0]?.number) wrong(`its result is of attempt ${result.attempt}`);
    if (result.rows !== rows.get(`${task.id}#${result.attempt}`)) wrong("its result is what another attempt reported");
  }
  for (const attempt of attempts) {
    if (
      accepted.has(`${task.id}#${attempt.number}`) &&
      !["succeeded", "failed", "released", "returned"].includes(attempt.status)
    )
      wrong(`attempt ${attempt.number} was acknowledged, and is ${attempt.status}`);
  }
  const visible = [...(published.get(task.id) ?? [])];
  if (visible.length > 1) wrong(`the output of ${visible} became visible`);
  if (visible.length === 1 && visible[0] !== task.manifest?.by)
    wrong(`${visible} became visible, the fence is for ${task.manifest?.by}`);
  const job = state.jobs.find((one) => one.id === task.job_id);
  if (yields && job?.destination !== null && visible.length === 0)
    wrong("succeeded, and its output never became visible");
  if (visible.length > 0 && task.status === "cancelled") wrong("was cancelled, and its output is visible");
  return [...faults, ...judgeEnd(task, attempts, state)];
}

const isGivenBack = (attempt: Attempt) => attempt.status === "released" || attempt.status === "returned";
const isWithout = (task: Task) => ["capacity", "cluster_failed"].includes(task.error?.code ?? "");

/** A task that failed has a reason that its plan or the faults account for, and was tried as often as that allows. */
function judgeEnd(task: Task, attempts: readonly Attempt[], state: State): string[] {
  const planned = plannedEnd(scriptOf(task, state), task.kind, task.key_token);
  const wrong = (what: string) => [`task ${task.id} (${task.kind}, ${task.status}, plan: ${planned}): ${what}`];
  if (task.status === "succeeded") return planned === "ok" || planned === "flaky" ? [] : wrong("can't have succeeded");
  if (task.status !== "failed" || isWithout(task)) return [];
  const code = task.error?.code;
  if (code === "query_failed") return planned === "user" ? [] : wrong("failed with the user's error");
  // One that was returned before it began has added an attempt to those that the task may have.
  const spent = task.attempts_max <= attempts.filter((attempt) => attempt.status !== "released").length;
  if (!spent) return wrong(`gave up with ${code} after ${attempts.length} of ${task.attempts_max} attempts`);
  if (code === "storage_failed") return planned === "storage" ? [] : wrong("failed with storage's error");
  if (code === "engine_lost") return planned === "flaky" ? [] : wrong("failed with an engine's end");
  return code === "node_lost" ? [] : wrong(`failed with ${code}`);
}

const scripts = new Map<string, ReturnType<typeof readScript>>();
let open: (sealed: Buffer) => Buffer = (sealed) => sealed;
/** Plans are sealed: whoever judges must be given what opens them. */
export function openPlansWith(opener: (sealed: Buffer) => Buffer): void {
  open = opener;
}

function scriptOf(task: Task, state: State): ReturnType<typeof readScript> {
  const known = scripts.get(task.plan_id);
  if (known !== undefined) return known;
  const plan = state.plans.find((one) => one.id === task.plan_id) as { sealed: string };
  const script = readScript(open(Buffer.from(plan.sealed, "base64")).toString("base64"));
  scripts.set(task.plan_id, script);
  if (scripts.size > 1_000) scripts.clear();
  return script;
}

/** Every submission that was answered is there once (R7), of the size that was asked for. */
function judgeAsked(asked: readonly Asked[], state: State): string[] {
  const faults: string[] = [];
  for (const { wish, jobId, answers, retryOf } of asked) {
    const name = `submission ${wish.key}`;
    if (new Set(answers).size > 1) faults.push(`${name}: one key, answers ${answers}`);
    if (jobId === undefined) continue;
    const job = state.jobs.find((one) => one.id === jobId);
    if (job === undefined) {
      faults.push(`${name}: accepted as ${jobId}, which is not there`);
      continue;
    }
    if (job.retry_of !== retryOf && (job.retry_of ?? undefined) !== retryOf)
      faults.push(`${name}: retries ${job.retry_of}`);
    const first = state.tasks.filter(
      (task) => task.job_id === jobId && task.kind === (wish.isPartitioned ? "split" : "query"),
    );
    if (retryOf === undefined && first.length !== wish.scripts.length)
      faults.push(`${name}: ${wish.scripts.length} frames, ${first.length} tasks`);
  }
  for (const job of state.jobs) {
    if (job.retry_of === null) continue;
    const left = (id: string | null) =>
      state.tasks
        .filter((task) => task.job_id === id && (task.status === "failed" || task.status === "cancelled"))
        .map((task) => `${task.plan_id} ${task.key_token}`);
    const copied = state.tasks
      .filter((task) => task.job_id === job.id)
      .map((task) => `${task.plan_id} ${task.key_token}`);
    const missing = left(job.retry_of).filter((one) => !copied.includes(one));
    if (missing.length > 0) faults.push(`job ${job.id} retries ${job.retry_of} without ${missing}`);
  }
  return faults;
}

/** `terminated` only once the cloud no longer has the machine (R6); no machine that the database does not know as one that lives (R4). */
function judgeMachines({ cloud }: Installation, state: State): string[] {
  const faults: string[] = [];
  const statuses = new Map(state.nodes.map((node) => [node.id, node.status]));
  for (const machine of cloud.machines.values()) {
    const status = statuses.get(machine.nodeId);
    const isAlive = machine.goneMs === undefined;
    if (status === undefined) faults.push(`machine ${machine.nodeId} is nobody's`);
    if (isAlive && status === "terminated") faults.push(`node ${machine.nodeId} is terminated, its machine lives`);
  }
  for (const node of state.nodes)
    if (node.status === "terminated" && !cloud.saidGone.has(node.id))
      faults.push(`node ${node.id} is terminated, and the cloud never said so`);
  const living = new Set(["requested", "ready", "lost", "stopping"]);
  for (const cluster of state.clusters) {
    if (cluster.status !== "terminated") continue;
    const moves = state.moves.filter((move) => move.id === cluster.id);
    if (moves.at(-1)?.became !== "terminated") faults.push(`cluster ${cluster.id} moved on after its end`);
  }
  for (const [nodeId, status] of statuses)
    if (!living.has(status) && status !== "terminated") faults.push(`node ${nodeId} is ${status}`);
  return faults;
}
