import { type AttemptRef, type LeaseBatch, makeTaskTimes, type RunTemplate, type TaskTimes } from "@frazil/contracts";
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
import { asLeasable, type LimitState, showLimited, tellRivals } from "./limits.ts";
import {
  addLink,
  attemptOf,
  CLAIM_KEY,
  type ClusterLinks,
  drop,
  expectLink,
  forgetLink,
  hold,
  holdAs,
  keyOf,
  type Link,
  type LinkState,
  type Links,
  makeLinks,
} from "./links.ts";
import { givenRuns, recallLate } from "./recall.ts";
import { batchOf, messagesOf, runsOf } from "./run-batches.ts";

/** Jobs of one user and priority that one look at the table considers: those that have waited longest for a slot. */
const PLACES_MAX = 20;
/** Nodes of a cluster that are leased to at the same moment. */
const LEASES_AT_ONCE = 4;
const ATTEMPTS_PER_MESSAGE_MAX = 500;
/** What was sent ahead of a node's slots is taken back when it has waited for so long, whoever waits for the node. */
const AHEAD_LATE_MS = 1_000;
/** Jobs that were cancelled lately: a lease that was being written just then is called back too. */
const CANCELS_KEPT_MAX = 1_000;
/** Jobs of a cluster of which it is remembered how far they were leased. */
const PROGRESS_KEPT_MAX = 500;
/** While a node still has what was sent ahead, its slots are filled again no more often than this. */
const WAKE_SOON_MS = 60;

/** Keeps the slots of the nodes that are connected to this process filled, with leases pushed to them. */
export interface Dispatcher {
  /** The node has said hello over this connection: nothing more is sent over the one that it had before. */
  expect(link: Link): void;
  /** Whether the node's newest connection here, as far as is known, is this one. */
  expects(link: Link): boolean;
  /** The node is connected and holds these tasks (as the database says). A link that closed or was replaced since it was expected gets nothing. */
  connect(link: Link, holding: readonly LeasedTask[]): Promise<void>;
  disconnect(link: Link): void;
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
  /** A node that is connected here: of this cluster, or of any of the workspace's. */
  anyLink(workspaceId: string, clusterId: string | null): Link | undefined;
  stats(): { nodes: number; slots: number; held: number };
}

export interface Claim {
  readonly nodeId: string;
  readonly link: Link;
}

type DispatchDeps = Pick<Deps, "db" | "pool" | "changes" | "sealer" | "settings" | "log" | "templates">;

/** Everything that the dispatcher knows. All of it can be rebuilt from the database and the nodes' connections. */
interface State {
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

export function makeDispatcher(deps: DispatchDeps): Dispatcher {
  const state: State = {
    deps,
    links: makeLinks(),
    times: makeTaskTimes(),
    filling: new Map(),
    quiet: new Set(),
    wakingSoon: new Set(),
    backlogged: new Set(),
    cancelled: new Set(),
    progress: new Map(),
    limits: { limited: new Map(), yieldedAtMs: new Map() },
    looks: new Map(),
  };
  const { links } = state;
  return {
    expect: (link) => expectLink(links, link),
    expects: (link) => links.expected.get(link.nodeId) === link,
    connect: (link, holding) => connect(state, link, holding),
    disconnect(link) {
      forgetLink(links, link);
      if (!links.byCluster.has(link.clusterId)) state.progress.delete(link.clusterId);
    },
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
    anyLink: (workspaceId, clusterId) =>
      [...links.byNode.values()].find(
        ({ link }) => link.workspaceId === workspaceId && (clusterId === null || link.clusterId === clusterId),
      )?.link,
    stats() {
      const all = [...links.byNode.values()];
      return {
        nodes: all.length,
        slots: all.reduce((sum, one) => sum + one.link.slots, 0),
        held: all.reduce((sum, one) => sum + one.held.size, 0),
      };
    },
  };
}

async function connect(state: State, link: Link, holding: readonly LeasedTask[]): Promise<void> {
  if (state.links.expected.get(link.nodeId) !== link) return;
  const linkState = addLink(state.links, link);
  for (const [jobId, ofJob] of Map.groupBy(holding, (task) => task.job_id)) {
    const template = await state.deps.templates.of(jobId);
    for (const run of runsOf(state.deps, template, ofJob, link.slots)) hold(state.links, linkState, run, template);
  }
  wake(state, link.clusterId);
}

/** One fill per cluster at a time; a wake that comes during one makes it look again. */
function wake(state: State, clusterId: string): void {
  state.quiet.delete(clusterId);
  const filling = state.filling.get(clusterId);
  if (filling !== undefined) filling.again = true;
  else if (state.links.byCluster.has(clusterId)) void fillUntilQuiet(state, clusterId);
}

/** Slots are free again. */
function refill(state: State, clusterId: string): void {
  if (!state.quiet.has(clusterId)) wake(state, clusterId);
}

/** No slot of the node is free yet, and what was sent ahead lasts longer than this: many ends are made up for in one statement. */
function wakeSoon(state: State, clusterId: string): void {
  if (state.wakingSoon.has(clusterId)) return;
  state.wakingSoon.add(clusterId);
  setTimeout(() => {
    state.wakingSoon.delete(clusterId);
    wake(state, clusterId);
  }, WAKE_SOON_MS).unref();
}

async function fillUntilQuiet(state: State, clusterId: string): Promise<void> {
  const filling = { again: false };
  state.filling.set(clusterId, filling);
  try {
    do {
      filling.again = false;
      const leasable = await fill(state, clusterId);
      if (leasable === 0 && !filling.again) state.quiet.add(clusterId);
    } while (filling.again);
  } catch (error) {
    state.deps.log.error({ err: error, cluster: clusterId }, "could not lease");
  } finally {
    state.filling.delete(clusterId);
  }
}

/** Resolves to the number of jobs that had something to lease. */
async function fill(state: State, clusterId: string): Promise<number> {
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
  if (found.length === 0 || cluster === undefined) return found.length;
  const own = found.map((job): LeasableJob => ({ ...job, taskMs: state.times.usualMs(job.jobId), elsewhere: false }));
  const jobs = [...own, ...(allowance?.rivals ?? []).map(asLeasable)];
  const sharing = assign(freeNodes(state, cluster, own), jobs, loadOf(cluster, max, allowance));
  const leased = await leaseAll(state, {
    allotments: sharing.allotments,
    priorities: new Map(found.map((job) => [job.jobId, job.priority])),
    progress,
    isLimited: max !== null,
  });
  for (const nodeId of sharing.reserved) hastenEmptiness(state, nodeId);
  if (sharing.yielded > 0) tellRivals(deps, state.limits, allowance?.rivals ?? []);
  await showLimited(deps, state.limits, { clusterId, jobIds: sharing.limited, max });
  const queued = found.reduce((sum, job) => sum + job.queued, 0);
  if (queued > leased) state.backlogged.add(clusterId);
  else state.backlogged.delete(clusterId);
  return found.length;
}

/** A job of which nothing waits just now keeps its place: something of it may come back. */
function noteProgress(state: State, clusterId: string, found: readonly Leasable[]): ReadonlyMap<string, Progress> {
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

function noneLeasable(state: State, clusterId: string): void {
  state.backlogged.delete(clusterId);
  state.limits.limited.delete(clusterId);
}

function freeNodes(state: State, { links }: ClusterLinks, jobs: readonly LeasableJob[]): FreeNode[] {
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
  for (const { user, tasks } of allowance?.elsewhere ?? []) byUser.set(user, (byUser.get(user) ?? 0) + tasks);
  return {
    byUser,
    byJob: cluster.byJob,
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
async function leaseAll(state: State, leasing: Leasing): Promise<number> {
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
  state: State,
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
  for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
    const template = await deps.templates.of(jobId);
    const runs = runsOf(deps, template, ofJob, link.slots);
    const job = { ...template, priority: priorities.get(jobId) };
    for (const run of runs) hold(state.links, linkState, run, job);
    for (const message of messagesOf(runs, template, ofJob)) link.send(message);
    deps.changes.notify(topics.job(jobId));
    if (state.cancelled.has(jobId)) await cancel(state, jobId);
  }
  return tasks;
}

/** A node is to become empty for a run that takes it whole: what was sent ahead of its slots is taken back if that would take long. */
function hastenEmptiness(state: State, nodeId: string): void {
  const linkState = state.links.byNode.get(nodeId);
  if (linkState === undefined || linkState.usedSlots <= linkState.link.slots) return;
  recallLate(state.times, linkState, AHEAD_MS);
  const { clusterId } = linkState.link;
  if (state.looks.has(clusterId)) return;
  const look = () => {
    state.looks.delete(clusterId);
    wake(state, clusterId);
  };
  state.looks.set(clusterId, setTimeout(look, AHEAD_MS).unref());
}

function claim(
  state: State,
  wanted: { workspaceId: string; shapeHash: string; clusterId: string | null },
): Claim | undefined {
  const { byCluster } = state.links;
  const one = wanted.clusterId === null ? undefined : byCluster.get(wanted.clusterId);
  const clusters = wanted.clusterId === null ? byCluster.values() : one === undefined ? [] : [one];
  for (const cluster of clusters) {
    if (cluster.workspaceId !== wanted.workspaceId) continue;
    for (const linkState of cluster.links) {
      const { link, held } = linkState;
      if (wanted.clusterId === null && link.shapeHash !== wanted.shapeHash) break;
      if (state.backlogged.has(link.clusterId) || state.filling.has(link.clusterId)) break;
      if (held.size > 0) continue;
      holdAs(state.links, linkState, [CLAIM_KEY], { jobId: "", user: "", priority: undefined, slots: link.slots });
      return { nodeId: link.nodeId, link };
    }
  }
  return undefined;
}

function deliver(state: State, claimed: Claim, task: LeasedTask, template: RunTemplate): void {
  const linkState = state.links.byNode.get(claimed.nodeId);
  // The node went away meanwhile. What it was leased is given back when it comes again without it, or when the lease runs out.
  if (linkState?.link !== claimed.link) return;
  drop(state.links, linkState, CLAIM_KEY);
  const runs = runsOf(state.deps, template, [task], claimed.link.slots);
  for (const run of runs) hold(state.links, linkState, run, template);
  for (const message of messagesOf(runs, template, [task])) claimed.link.send(message);
  // What came meanwhile found the node taken.
  refill(state, claimed.link.clusterId);
}

function unclaim(state: State, claimed: Claim): void {
  const linkState = state.links.byNode.get(claimed.nodeId);
  if (linkState?.link === claimed.link) drop(state.links, linkState, CLAIM_KEY);
  refill(state, claimed.link.clusterId);
}

function release(state: State, nodeId: string, attempt: AttemptRef, ms: number | undefined): void {
  const linkState = state.links.byNode.get(nodeId);
  if (linkState === undefined) return;
  const run = drop(state.links, linkState, keyOf(attempt));
  if (run === undefined) return;
  if (ms !== undefined) state.times.learn(run.jobId, ms);
  const { clusterId, workspaceId } = linkState.link;
  if (linkState.usedSlots > linkState.link.slots) wakeSoon(state, clusterId);
  else refill(state, clusterId);
  // What this leaves of the workspace's limit may be another cluster's.
  for (const other of state.limits.limited.keys())
    if (other !== clusterId && state.links.byCluster.get(other)?.workspaceId === workspaceId) wake(state, other);
}

function keep(state: State, nodeId: string, holding: readonly AttemptRef[]): void {
  const linkState = state.links.byNode.get(nodeId);
  if (linkState === undefined) return;
  const named = new Set(holding.map(keyOf));
  const oldestMs = performance.now() - state.deps.settings.leaseTtlMs;
  const gone = [...linkState.held].filter(([key, run]) => !named.has(key) && run.heldSinceMs < oldestMs);
  for (const [key] of gone) drop(state.links, linkState, key);
  if (gone.length > 0) wake(state, linkState.link.clusterId);
  if (linkState.usedSlots > linkState.link.slots) recallLate(state.times, linkState, AHEAD_LATE_MS);
}

async function cancel(state: State, jobId: string): Promise<void> {
  const { deps } = state;
  state.cancelled.add(jobId);
  if (state.cancelled.size > CANCELS_KEPT_MAX) state.cancelled.delete(state.cancelled.keys().next().value as string);
  const held = [...(state.links.byJob.get(jobId)?.keys() ?? [])].flatMap(({ link, held }) =>
    [...held].flatMap(([key, run]) => (run.jobId === jobId ? [{ ...attemptOf(key), nodeId: link.nodeId }] : [])),
  );
  const ended = await deps.db.leasing.findEnded(deps.pool, held);
  for (const [nodeId, ofNode] of Map.groupBy(ended, (one) => one.nodeId)) {
    const refs = ofNode.map(({ taskId, attempt }) => ({ taskId, attempt }));
    for (let at = 0; at < refs.length; at += ATTEMPTS_PER_MESSAGE_MAX)
      state.links.byNode
        .get(nodeId)
        ?.link.send({ type: "cancel", tasks: refs.slice(at, at + ATTEMPTS_PER_MESSAGE_MAX) });
  }
}

async function describe(state: State, nodeId: string, attempts: readonly AttemptRef[]): Promise<LeaseBatch[]> {
  const { deps } = state;
  const slots = state.links.byNode.get(nodeId)?.link.slots ?? 1;
  const batches: LeaseBatch[] = [];
  const tasks = await deps.db.leasing.loadLeased(deps.pool, nodeId, attempts);
  for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
    const template = await deps.templates.of(jobId);
    for (const run of runsOf(deps, template, ofJob, slots)) batches.push(batchOf(run, template, ofJob));
  }
  return batches;
}
