import type { AttemptRef, LeaseBatch, Run, RunTemplate, ToNode } from "@frazil/contracts";
import { type Allotment, assign, type LeasableJob } from "../domain/assign.ts";
import { type Deps, type LeasedTask, topics } from "./deps.ts";
import { batchOf, messagesOf, runsOf } from "./run-batches.ts";

/** Jobs of one user that one look at the table considers. */
const JOBS_PER_USER_MAX = 20;
const CANCELS_PER_MESSAGE_MAX = 500;
/** Weight of the newest task in the usual time of a job's tasks. */
const TASK_MS_WEIGHT = 0.2;
const TASK_MS_KEPT_MAX = 1_000;

/** A connected node, as far as leasing goes. */
export interface Link {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly workspaceId: string;
  readonly shapeHash: string;
  readonly slots: number;
  send(message: ToNode): void;
}

const keyOf = (attempt: AttemptRef) => `${attempt.taskId}#${attempt.attempt}`;
function attemptOf(key: string): AttemptRef {
  const [taskId = "", attempt] = key.split("#");
  return { taskId, attempt: Number(attempt) };
}

interface HeldRun {
  readonly jobId: string;
  readonly user: string;
  readonly slots: number;
  /** On this process's own clock. */
  readonly heldSinceMs: number;
}
interface LinkState {
  readonly link: Link;
  readonly held: Map<string, HeldRun>;
}

/** Keeps the slots of the nodes that are connected to this process filled, with leases pushed to them. */
export interface Dispatcher {
  /** The node is connected and holds these tasks (as the database says). */
  connect(link: Link, holding: readonly LeasedTask[]): Promise<void>;
  disconnect(nodeId: string, link: Link): void;
  /** The node has connected anew: nothing more is sent over the connection that it had before. */
  forget(nodeId: string): void;
  /** The node says what it has. What it did not name for as long as a lease lasts, it does not have: those slots are free. */
  keep(nodeId: string, holding: readonly AttemptRef[]): void;
  /** An attempt's slots are free again. */
  release(nodeId: string, attempt: AttemptRef, taskMs: number | undefined): void;
  /** Attempts of this job were ended, maybe by another process: tells the nodes that are connected here to stop those that they have. */
  cancel(jobId: string): void;
  wake(clusterId: string): void;
  /** Keeps an empty node for a task that takes a whole one and is about to be inserted, unless others wait for the cluster. */
  claim(wanted: { workspaceId: string; shapeHash: string; clusterId: string | null }): Claim | undefined;
  /** The claimed node got the task, in the database; now it is pushed. */
  deliver(claim: Claim, task: LeasedTask, template: RunTemplate): void;
  unclaim(claim: Claim): void;
  /** Content of a lease that was too large for a message. */
  describe(nodeId: string, attempts: readonly AttemptRef[]): Promise<LeaseBatch[]>;
  stats(): { nodes: number; slots: number; held: number };
}

export interface Claim {
  readonly nodeId: string;
  readonly link: Link;
}
/** Stands for the task to come among what a node holds. */
const CLAIM_KEY = "claim";

type DispatchDeps = Pick<Deps, "db" | "pool" | "changes" | "sealer" | "settings" | "log" | "templates">;

/** Everything that the dispatcher knows. All of it can be rebuilt from the database and the nodes' connections. */
interface State {
  readonly deps: DispatchDeps;
  readonly links: Map<string, LinkState>;
  /** Usual time of a job's tasks. */
  readonly taskMs: Map<string, number>;
  /** Clusters that are being filled right now. */
  readonly filling: Map<string, { again: boolean }>;
  /** Clusters in which more was queued, at the last look, than there was room for. */
  readonly backlogged: Set<string>;
}

export function makeDispatcher(deps: DispatchDeps): Dispatcher {
  const state: State = {
    deps,
    links: new Map(),
    taskMs: new Map(),
    filling: new Map(),
    backlogged: new Set(),
  };
  const { links } = state;
  return {
    connect: (link, holding) => connect(state, link, holding),
    disconnect(nodeId, link) {
      if (links.get(nodeId)?.link === link) links.delete(nodeId);
    },
    forget: (nodeId) => void links.delete(nodeId),
    keep: (nodeId, holding) => keep(state, nodeId, holding),
    release: (nodeId, attempt, ms) => release(state, nodeId, attempt, ms),
    cancel(jobId) {
      cancel(state, jobId).catch((error) => deps.log.error({ err: error, job: jobId }, "could not tell of a cancel"));
    },
    wake: (clusterId) => wake(state, clusterId),
    claim: (wanted) => claim(state, wanted),
    deliver: (claimed, task, template) => deliver(state, claimed, task, template),
    unclaim: (claimed) => unclaim(state, claimed),
    describe: (nodeId, attempts) => describe(state, nodeId, attempts),
    stats: () => ({
      nodes: links.size,
      slots: [...links.values()].reduce((sum, one) => sum + one.link.slots, 0),
      held: [...links.values()].reduce((sum, one) => sum + one.held.size, 0),
    }),
  };
}

async function connect(state: State, link: Link, holding: readonly LeasedTask[]): Promise<void> {
  const linkState: LinkState = { link, held: new Map() };
  state.links.set(link.nodeId, linkState);
  for (const [jobId, ofJob] of Map.groupBy(holding, (task) => task.job_id)) {
    const template = await state.deps.templates.of(jobId);
    for (const run of runsOf(state.deps, template, ofJob, link.slots)) hold(linkState, run, template);
  }
  wake(state, link.clusterId);
}

/** One fill per cluster at a time; a wake that comes during one makes it look again. */
function wake(state: State, clusterId: string): void {
  const filling = state.filling.get(clusterId);
  if (filling !== undefined) {
    filling.again = true;
    return;
  }
  if (linksOf(state, clusterId).length > 0) void fillUntilQuiet(state, clusterId);
}

async function fillUntilQuiet(state: State, clusterId: string): Promise<void> {
  const filling = { again: false };
  state.filling.set(clusterId, filling);
  try {
    do {
      filling.again = false;
      await fill(state, clusterId);
    } while (filling.again);
  } catch (error) {
    state.deps.log.error({ err: error, cluster: clusterId }, "could not lease");
  } finally {
    state.filling.delete(clusterId);
  }
}

async function fill(state: State, clusterId: string): Promise<void> {
  const { deps } = state;
  const found = await deps.db.tasks.listLeasable(deps.pool, clusterId, JOBS_PER_USER_MAX);
  const linkStates = linksOf(state, clusterId);
  if (found.length === 0) state.backlogged.delete(clusterId);
  if (found.length === 0 || linkStates.length === 0) return;
  const jobs = found.map((job): LeasableJob => ({ ...job, taskMs: state.taskMs.get(job.jobId) }));
  const nodes = linkStates.map(({ link, held }) => ({
    nodeId: link.nodeId,
    slots: link.slots,
    usedSlots: usedSlots(held),
  }));
  let leased = 0;
  for (const [nodeId, given] of Map.groupBy(assign(nodes, jobs, loadOf(linkStates)), (one) => one.nodeId)) {
    const linkState = state.links.get(nodeId);
    if (linkState !== undefined) leased += await leaseTo(state, linkState, given);
  }
  const queued = found.reduce((sum, job) => sum + job.queued, 0);
  if (queued > leased) state.backlogged.add(clusterId);
  else state.backlogged.delete(clusterId);
}

async function leaseTo(state: State, linkState: LinkState, allotments: readonly Allotment[]): Promise<number> {
  const { deps } = state;
  const { link } = linkState;
  const tasks = await deps.db.tasks.leaseTasks(deps.pool, link.nodeId, allotments, deps.settings.leaseTtlMs);
  for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
    const template = await deps.templates.of(jobId);
    const runs = runsOf(deps, template, ofJob, link.slots);
    for (const run of runs) hold(linkState, run, template);
    for (const message of messagesOf(runs, template, ofJob)) link.send(message);
    deps.changes.notify(topics.job(jobId));
  }
  return tasks.length;
}

function claim(
  state: State,
  wanted: { workspaceId: string; shapeHash: string; clusterId: string | null },
): Claim | undefined {
  for (const { link, held } of state.links.values()) {
    const fits = wanted.clusterId === null ? link.shapeHash === wanted.shapeHash : link.clusterId === wanted.clusterId;
    if (!fits || link.workspaceId !== wanted.workspaceId || held.size > 0) continue;
    if (state.backlogged.has(link.clusterId) || state.filling.has(link.clusterId)) continue;
    held.set(CLAIM_KEY, { jobId: "", user: "", slots: link.slots, heldSinceMs: performance.now() });
    return { nodeId: link.nodeId, link };
  }
  return undefined;
}

function deliver(state: State, claimed: Claim, task: LeasedTask, template: RunTemplate): void {
  const linkState = state.links.get(claimed.nodeId);
  // The node went away meanwhile. What it was leased is given back when it comes again without it, or when the lease runs out.
  if (linkState?.link !== claimed.link) return;
  linkState.held.delete(CLAIM_KEY);
  const runs = runsOf(state.deps, template, [task], claimed.link.slots);
  for (const run of runs) hold(linkState, run, template);
  for (const message of messagesOf(runs, template, [task])) claimed.link.send(message);
  // What came meanwhile found the node taken.
  wake(state, claimed.link.clusterId);
}

function unclaim(state: State, claimed: Claim): void {
  const linkState = state.links.get(claimed.nodeId);
  if (linkState?.link === claimed.link) linkState.held.delete(CLAIM_KEY);
  wake(state, claimed.link.clusterId);
}

function release(state: State, nodeId: string, attempt: AttemptRef, ms: number | undefined): void {
  const linkState = state.links.get(nodeId);
  const run = linkState?.held.get(keyOf(attempt));
  if (linkState === undefined || run === undefined) return;
  linkState.held.delete(keyOf(attempt));
  if (ms !== undefined) learn(state.taskMs, run.jobId, ms);
  wake(state, linkState.link.clusterId);
}

function keep(state: State, nodeId: string, holding: readonly AttemptRef[]): void {
  const linkState = state.links.get(nodeId);
  if (linkState === undefined) return;
  const named = new Set(holding.map(keyOf));
  const oldestMs = performance.now() - state.deps.settings.leaseTtlMs;
  const gone = [...linkState.held].filter(([key, run]) => !named.has(key) && run.heldSinceMs < oldestMs);
  for (const [key] of gone) linkState.held.delete(key);
  if (gone.length > 0) wake(state, linkState.link.clusterId);
}

async function cancel(state: State, jobId: string): Promise<void> {
  const { deps } = state;
  for (const { link, held } of state.links.values()) {
    const ours = [...held].flatMap(([key, run]) => (run.jobId === jobId ? [attemptOf(key)] : []));
    const ended = await deps.db.tasks.renewLeases(deps.pool, link.nodeId, ours, deps.settings.leaseTtlMs);
    for (let at = 0; at < ended.length; at += CANCELS_PER_MESSAGE_MAX) {
      link.send({ type: "cancel", tasks: ended.slice(at, at + CANCELS_PER_MESSAGE_MAX) });
    }
  }
}

async function describe(state: State, nodeId: string, attempts: readonly AttemptRef[]): Promise<LeaseBatch[]> {
  const { deps } = state;
  const slots = state.links.get(nodeId)?.link.slots ?? 1;
  const batches: LeaseBatch[] = [];
  const tasks = await deps.db.tasks.loadLeased(deps.pool, nodeId, attempts);
  for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
    const template = await deps.templates.of(jobId);
    for (const run of runsOf(deps, template, ofJob, slots)) batches.push(batchOf(run, template, ofJob));
  }
  return batches;
}

function linksOf(state: State, clusterId: string): LinkState[] {
  return [...state.links.values()].filter((one) => one.link.clusterId === clusterId);
}

function usedSlots(held: ReadonlyMap<string, HeldRun>): number {
  return [...new Set(held.values())].reduce((sum, run) => sum + run.slots, 0);
}

function loadOf(states: readonly LinkState[]) {
  const byUser = new Map<string, number>();
  const byJob = new Map<string, number>();
  for (const run of new Set(states.flatMap((state) => [...state.held.values()]))) {
    byUser.set(run.user, (byUser.get(run.user) ?? 0) + run.slots);
    byJob.set(run.jobId, (byJob.get(run.jobId) ?? 0) + run.slots);
  }
  return { byUser, byJob };
}

function hold(state: LinkState, run: Run, template: RunTemplate): void {
  const held: HeldRun = {
    jobId: template.jobId,
    user: template.user,
    slots: run.slots,
    heldSinceMs: performance.now(),
  };
  for (const task of run.tasks) state.held.set(keyOf(task), held);
}

function learn(taskMs: Map<string, number>, jobId: string, ms: number): void {
  const before = taskMs.get(jobId);
  taskMs.delete(jobId);
  taskMs.set(jobId, before === undefined ? ms : before + TASK_MS_WEIGHT * (ms - before));
  if (taskMs.size > TASK_MS_KEPT_MAX) taskMs.delete(taskMs.keys().next().value as string);
}
