import { makeTaskTimes, type TaskTimes } from "@frazil/contracts";
import { AHEAD_MS, emptyInMs } from "../domain/ahead.ts";
import {
  type Allotment,
  assign,
  type FreeNode,
  type LeasableJob,
  type Load,
  takesWholeNode,
} from "../domain/assign.ts";
import { type Allowance, type Deps, type Leasable, type LeasedTask, type Progress, topics } from "./deps.ts";
import {
  asLeasable,
  type LimitState,
  noteYielded,
  rivalId,
  rivalsInTurn,
  showLimited,
  tellRivals,
  YIELD_PATIENCE_MS,
} from "./limits.ts";
import { type ClusterLinks, hold, type LinkState, type Links, makeLinks } from "./links.ts";
import { callBackEnded, givenRuns, recallLate } from "./recall.ts";
import { messagesOf, runsOf } from "./run-batches.ts";

/** Jobs of one user and priority that one look at the table considers: those that have waited longest for a slot. */
const PLACES_MAX = 20;
/** Nodes of a cluster that are leased to at the same moment. */
const LEASES_AT_ONCE = 4;
/** Jobs of a cluster of which it is remembered how far they were leased. */
const PROGRESS_KEPT_MAX = 500;
/** While a node still has what was sent ahead, its slots are filled again no more often than this. */
const WAKE_SOON_MS = 60;

export type DispatchDeps = Pick<Deps, "db" | "pool" | "changes" | "sealer" | "settings" | "log" | "templates">;

/** Everything that the dispatcher knows. All of it can be rebuilt from the database and the nodes' connections. */
export interface DispatchState {
  readonly deps: DispatchDeps;
  readonly links: Links;
  readonly times: TaskTimes;
  /** Clusters that are being filled right now. */
  readonly filling: Map<string, { again: boolean }>;
  /** Clusters in which nothing was leasable at the last look, and of which nothing was heard since: freed slots are no reason to look again. */
  readonly quiet: Set<string>;
  /** Clusters that are looked at in a moment. */
  readonly wakingSoon: Set<string>;
  /** Clusters in which more was queued, at the last look, than there was room for. */
  readonly backlogged: Set<string>;
  readonly cancelled: Set<string>;
  readonly limits: LimitState;
  /** By cluster and job: how far its tasks were leased. */
  readonly progress: Map<string, Map<string, Progress>>;
  /** Clusters that are looked at again soon. */
  readonly looks: Map<string, NodeJS.Timeout>;
}

export function makeDispatchState(deps: DispatchDeps): DispatchState {
  return {
    deps,
    links: makeLinks(),
    times: makeTaskTimes(),
    filling: new Map(),
    quiet: new Set(),
    wakingSoon: new Set(),
    backlogged: new Set(),
    cancelled: new Set(),
    progress: new Map(),
    limits: { limited: new Map(), yieldedAtMs: new Map(), yieldedTo: new Map() },
    looks: new Map(),
  };
}

/** One fill per cluster at a time; a wake that comes during one makes it look again. */
export function wake(state: DispatchState, clusterId: string): void {
  state.quiet.delete(clusterId);
  const filling = state.filling.get(clusterId);
  if (filling !== undefined) filling.again = true;
  else if (state.links.byCluster.has(clusterId)) void fillUntilQuiet(state, clusterId);
}

/** Slots are free again. */
export function refill(state: DispatchState, clusterId: string): void {
  if (!state.quiet.has(clusterId)) wake(state, clusterId);
}

/** No slot of the node is free yet, and what was sent ahead lasts longer than this: many ends are made up for in one statement. */
export function wakeSoon(state: DispatchState, clusterId: string): void {
  if (state.wakingSoon.has(clusterId)) return;
  state.wakingSoon.add(clusterId);
  setTimeout(() => {
    state.wakingSoon.delete(clusterId);
    wake(state, clusterId);
  }, WAKE_SOON_MS).unref();
}

async function fillUntilQuiet(state: DispatchState, clusterId: string): Promise<void> {
  const filling = { again: false };
  state.filling.set(clusterId, filling);
  try {
    do {
      filling.again = false;
      const { leasable, isShort } = await fill(state, clusterId);
      if (isShort) filling.again = true;
      if (leasable === 0 && !filling.again) state.quiet.add(clusterId);
    } while (filling.again);
  } catch (error) {
    state.deps.log.error({ err: error, cluster: clusterId }, "could not lease");
  } finally {
    state.filling.delete(clusterId);
  }
}

interface Filled {
  /** Jobs that had something to lease. */
  readonly leasable: number;
  /** Some of what was allotted was not there to lease: what it was to take is free for others. */
  readonly isShort: boolean;
}

async function fill(state: DispatchState, clusterId: string): Promise<Filled> {
  const { deps } = state;
  const found = await deps.db.leasing.listLeasable(
    deps.pool,
    clusterId,
    PLACES_MAX,
    state.progress.get(clusterId) ?? new Map(),
  );
  const progress = noteProgress(state, clusterId, found);
  if (found.length === 0) noneLeasable(state, clusterId);
  const workspaceId = state.links.byCluster.get(clusterId)?.workspaceId;
  const max = found[0]?.tasksRunningMax ?? null;
  const allowance =
    max === null || workspaceId === undefined
      ? undefined
      : await deps.db.leasing.loadAllowance(deps.pool, workspaceId, clusterId);
  // As it is now: nodes may have come and gone meanwhile.
  const cluster = state.links.byCluster.get(clusterId);
  if (found.length === 0 || cluster === undefined) return { leasable: found.length, isShort: false };
  const own = found.map((job): LeasableJob => ({ ...job, taskMs: state.times.usualMs(job.jobId), elsewhere: false }));
  const nowMs = performance.now();
  const rivals = allowance?.rivals ?? [];
  const sharing = assign(
    freeNodes(state, cluster, own),
    [...own, ...rivalsInTurn(state.limits, clusterId, rivals, nowMs).map(asLeasable)],
    loadOf(cluster, max, allowance),
  );
  const leased = await leaseAll(state, {
    allotments: sharing.allotments,
    priorities: new Map(found.map((job) => [job.jobId, job.priority])),
    progress,
    isLimited: max !== null,
  });
  for (const nodeId of sharing.reserved) hastenEmptiness(state, nodeId);
  noteYielded(state.limits, clusterId, { hasTaken: leased > 0, yieldedTo: sharing.yieldedTo, rivals, nowMs });
  if (sharing.yieldedTo.length > 0) {
    tellRivals(deps, state.limits, rivals);
    lookIn(state, clusterId, YIELD_PATIENCE_MS);
  }
  await showLimited(deps, state.limits, { clusterId, jobIds: sharing.limited, max });
  const queued = found.reduce((sum, job) => sum + job.queued, 0);
  if (queued > leased) state.backlogged.add(clusterId);
  else state.backlogged.delete(clusterId);
  const allotted = sharing.allotments.reduce((sum, one) => sum + one.count, 0);
  return { leasable: found.length, isShort: leased > 0 && leased < allotted };
}

/** A job of which nothing waits just now keeps its place: something of it may come back. */
function noteProgress(
  state: DispatchState,
  clusterId: string,
  found: readonly Leasable[],
): ReadonlyMap<string, Progress> {
  const progress = state.progress.get(clusterId) ?? new Map<string, Progress>();
  for (const job of found) {
    progress.delete(job.jobId);
    progress.set(job.jobId, job.progress);
  }
  for (const jobId of progress.keys()) {
    if (progress.size <= PROGRESS_KEPT_MAX) break;
    progress.delete(jobId);
  }
  state.progress.set(clusterId, progress);
  return progress;
}

function noneLeasable(state: DispatchState, clusterId: string): void {
  state.backlogged.delete(clusterId);
  state.limits.limited.delete(clusterId);
}

function freeNodes(state: DispatchState, { links }: ClusterLinks, jobs: readonly LeasableJob[]): FreeNode[] {
  // Only one that takes a whole node asks which will be empty first.
  const matters = jobs.some((job) => takesWholeNode(job.mode, job.kind));
  return [...links].map(({ link, held, usedSlots }) => ({
    nodeId: link.nodeId,
    slots: link.slots,
    usedSlots,
    emptyInMs: matters ? emptyInMs(givenRuns(state.times, held), link.slots) : 0,
  }));
}

function loadOf(cluster: ClusterLinks, max: number | null, allowance: Allowance | undefined): Load {
  const now = performance.now();
  const byUser = new Map(cluster.byUser);
  const byJob = new Map(cluster.byJob);
  for (const rival of allowance?.rivals ?? []) byJob.set(rivalId(rival), rival.running);
  for (const { user, tasks } of allowance?.elsewhere ?? []) byUser.set(user, (byUser.get(user) ?? 0) + tasks);
  return {
    byUser,
    byJob,
    servedMsAgo: new Map([...cluster.servedAtMs].map(([group, atMs]) => [group, now - atMs])),
    tasksLeft: max === null ? Number.POSITIVE_INFINITY : Math.max(0, max - (allowance?.running ?? 0)),
  };
}

interface Leasing {
  readonly allotments: readonly Allotment[];
  readonly priorities: ReadonlyMap<string, number>;
  readonly progress: ReadonlyMap<string, Progress>;
  readonly isLimited: boolean;
}

/** Leases to several nodes at a time. Resolves to the number of tasks. */
async function leaseAll(state: DispatchState, leasing: Leasing): Promise<number> {
  const perNode = [...Map.groupBy(leasing.allotments, (one) => one.nodeId)];
  let leased = 0;
  const work = async () => {
    for (let next = perNode.shift(); next !== undefined; next = perNode.shift()) {
      const linkState = state.links.byNode.get(next[0]);
      if (linkState === undefined) continue;
      const tasks = await leaseTo(state, linkState, next[1], leasing);
      leased += tasks.length;
    }
  };
  await Promise.all(Array.from({ length: Math.min(LEASES_AT_ONCE, perNode.length) }, work));
  return leased;
}

async function leaseTo(
  state: DispatchState,
  linkState: LinkState,
  allotments: readonly Allotment[],
  { isLimited, priorities, progress }: Leasing,
): Promise<LeasedTask[]> {
  const { deps } = state;
  const { link } = linkState;
  const order = { nodeId: link.nodeId, allotments, ttlMs: deps.settings.leaseTtlMs, progress };
  const tasks = isLimited
    ? await deps.db.leasing.leaseTasksWithin(deps.pool, link.workspaceId, order)
    : await deps.db.leasing.leaseTasks(deps.pool, order);
  const byJob = Map.groupBy(tasks, (task) => task.job_id);
  // A node begins what it has in the order in which it was sent: whose turn it was first is sent first.
  for (const jobId of new Set(allotments.map((one) => one.jobId))) {
    const ofJob = byJob.get(jobId);
    if (ofJob === undefined) continue;
    const template = await deps.templates.of(jobId);
    const runs = runsOf(deps, template, ofJob, link.slots);
    const job = { ...template, priority: priorities.get(jobId) };
    for (const run of runs) hold(state.links, linkState, run, job);
    for (const message of messagesOf(runs, template, ofJob)) link.send(message);
    deps.changes.notify(topics.job(jobId));
    if (state.cancelled.has(jobId)) await callBackEnded(state, jobId);
  }
  return tasks;
}

/** A node is to become empty for a run that takes it whole: what was sent ahead of its slots is taken back if that would take long. */
function hastenEmptiness(state: DispatchState, nodeId: string): void {
  const linkState = state.links.byNode.get(nodeId);
  if (linkState === undefined || linkState.usedSlots <= linkState.link.slots) return;
  recallLate(state.times, linkState, AHEAD_MS);
  lookIn(state, linkState.link.clusterId, AHEAD_MS);
}

function lookIn(state: DispatchState, clusterId: string, ms: number): void {
  if (state.looks.has(clusterId)) return;
  const look = () => {
    state.looks.delete(clusterId);
    wake(state, clusterId);
  };
  state.looks.set(clusterId, setTimeout(look, ms).unref());
}
