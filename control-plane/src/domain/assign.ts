import { type JobMode, KEYS_PER_RUN_MAX, type TaskKind } from "@frazil/contracts";

/** What one fill may lease to one node, so that a single message and statement stay small. */
const LEASE_TASKS_MAX = 256;

export interface FreeNode {
  readonly nodeId: string;
  readonly slots: number;
  /** Slots that hold or will hold a run; may exceed `slots` by what was prefetched. */
  readonly usedSlots: number;
  /** When it will be empty if it gets nothing more, as far as that can be told. */
  readonly emptyInMs: number;
}

/** A job of the cluster that has a queued task, described by its next one. */
export interface LeasableJob {
  readonly jobId: string;
  readonly user: string;
  readonly priority: number;
  readonly mode: JobMode;
  readonly kind: TaskKind;
  readonly parentId: string | null;
  /** Attempts that the next task has behind it. */
  readonly attempt: number;
  /** Queued tasks of that kind and parent, at least 1. */
  readonly queued: number;
  /** Usual time of one task, when known. */
  readonly taskMs: number | undefined;
  /** Since one of its tasks was last leased, or since it was submitted. */
  readonly waitedMs: number;
  /** Waits in another cluster of the workspace: it takes of the workspace's limit, but no node here. */
  readonly elsewhere: boolean;
}

export interface Allotment {
  readonly nodeId: string;
  readonly jobId: string;
  readonly kind: TaskKind;
  readonly parentId: string | null;
  readonly count: number;
  readonly slotsPerRun: number;
}

export interface Load {
  /** Slots in use, by user and by job. */
  readonly byUser: ReadonlyMap<string, number>;
  readonly byJob: ReadonlyMap<string, number>;
  /** Time since a job of this user and priority (`groupOf`) was last given a slot here, or gave one back, where that is known. */
  readonly servedMsAgo: ReadonlyMap<string, number>;
  /** Tasks that the workspace may have on nodes beside those that it has. */
  readonly tasksLeft: number;
}

/** What a look at a cluster decides. */
export interface Sharing {
  readonly allotments: readonly Allotment[];
  /** Nodes that get nothing more until one of them is empty: it is kept for a run that takes it whole. */
  readonly reserved: readonly string[];
  /** Jobs that there are free slots for, and that the workspace's limit keeps from them. */
  readonly limited: readonly string[];
  /** Those that wait in the workspace's other clusters, of whose limit something was left to them. */
  readonly yieldedTo: readonly string[];
}

export function groupOf(user: string, priority: number): string {
  return `${priority} ${user}`;
}

/**
 * A job that has no slot rises by one point of priority for each of these. From 0 to 100 that is five minutes: the most that any priority can hold up
 * another. One that was given a slot begins anew, and so do the other jobs of its user and priority: they take turns.
 */
export const AGING_MS_PER_POINT = 3_000;

/** Tasks of this kind take a node for themselves: all its threads and memory go to one engine. */
export function takesWholeNode(mode: JobMode, kind: TaskKind): boolean {
  return kind !== "query" || mode === "single";
}

/** How many keys go into one engine run. They share one read of the input; after a crash the batch shrinks, to find the one that crashes. */
export function keysPerRun(queued: number, nodes: number, attempt: number): number {
  if (attempt >= 2) return 1;
  const share = Math.ceil(queued / Math.max(1, nodes));
  return Math.max(1, Math.min(KEYS_PER_RUN_MAX, attempt === 1 ? Math.ceil(share / 8) : share));
}

/** Short tasks are sent ahead of a free slot, so that a slot never waits for the network; bounded by the time they may wait there. */
const PREFETCH_MS = 150;
export function prefetchTasks(slots: number, taskMs: number | undefined): number {
  if (taskMs === undefined) return 0;
  return Math.min(LEASE_TASKS_MAX, Math.floor((slots * PREFETCH_MS) / Math.max(taskMs, 0.5)));
}

/** The first tasks of the allotments, in their order. */
export function cutTo(allotments: readonly Allotment[], tasks: number): Allotment[] {
  const cut: Allotment[] = [];
  let left = tasks;
  for (const given of allotments) {
    const count = Math.min(left, given.count);
    if (count > 0) cut.push({ ...given, count });
    left -= count;
  }
  return cut;
}

interface Candidate extends LeasableJob {
  left: number;
  waitedMs: number;
}

/** The state of a sharing, as it goes on. */
interface Turn {
  readonly nodes: readonly FreeNode[];
  readonly used: Map<string, number>;
  readonly reserved: Set<string>;
  readonly byUser: Map<string, number>;
  readonly byJob: Map<string, number>;
  readonly servedMsAgo: Map<string, number>;
  tasksLeft: number;
}

/**
 * Shares the room of a cluster's nodes out among its jobs, slot by slot. First is the highest priority, raised by the time that a job without a slot has
 * waited; then the user with the fewest slots in use; then who was served longest ago; then the job with the fewest slots, and the one that has waited
 * longest. Where the one whose turn it is needs a whole node and none is empty, the node that will be empty first is kept for it. Where it finds no room
 * on any node, none that comes after it is sent ahead of a free slot: that would fill up what is to become free.
 */
export function assign(nodes: readonly FreeNode[], jobs: readonly LeasableJob[], load: Load): Sharing {
  const turn: Turn = {
    nodes,
    used: new Map(nodes.map((node) => [node.nodeId, node.usedSlots])),
    reserved: new Set(),
    byUser: new Map(load.byUser),
    byJob: new Map(load.byJob),
    servedMsAgo: new Map(load.servedMsAgo),
    tasksLeft: load.tasksLeft,
  };
  const candidates: Candidate[] = jobs.map((job) => ({ ...job, left: job.queued }));
  const allotments: Allotment[] = [];
  const yieldedTo: string[] = [];
  for (let step = 0; step < LEASE_TASKS_MAX * Math.max(1, nodes.length) && turn.tasksLeft > 0; step++) {
    const job = nextInTurn(candidates, turn);
    if (job === undefined) break;
    if (job.elsewhere) {
      account(turn, job, 1, 1);
      yieldedTo.push(job.jobId);
      continue;
    }
    const given = take(turn, job);
    if (given === "kept") continue;
    if (given === "full") break;
    allotments.push(given);
    account(turn, job, given.count, given.slotsPerRun);
    turn.used.set(given.nodeId, (turn.used.get(given.nodeId) ?? 0) + given.slotsPerRun);
  }
  return {
    allotments: mergeAllotments(allotments),
    reserved: [...turn.reserved],
    limited: turn.tasksLeft > 0 ? [] : keptByLimit(turn, candidates),
    yieldedTo,
  };
}

function account(turn: Turn, job: Candidate, tasks: number, slots: number): void {
  turn.byUser.set(job.user, (turn.byUser.get(job.user) ?? 0) + slots);
  turn.byJob.set(job.jobId, (turn.byJob.get(job.jobId) ?? 0) + slots);
  turn.servedMsAgo.set(groupOf(job.user, job.priority), 0);
  turn.tasksLeft -= tasks;
  job.waitedMs = 0;
  job.left -= tasks;
}

function nextInTurn(candidates: readonly Candidate[], turn: Turn): Candidate | undefined {
  let best: Candidate | undefined;
  for (const job of candidates) {
    if (job.left > 0 && (best === undefined || compareTurn(job, best, turn) < 0)) best = job;
  }
  return best;
}

function compareTurn(a: Candidate, b: Candidate, turn: Turn): number {
  return (
    pointsOf(b, turn) - pointsOf(a, turn) ||
    (turn.byUser.get(a.user) ?? 0) - (turn.byUser.get(b.user) ?? 0) ||
    groupWaitedMs(b, turn) - groupWaitedMs(a, turn) ||
    (turn.byJob.get(a.jobId) ?? 0) - (turn.byJob.get(b.jobId) ?? 0) ||
    b.waitedMs - a.waitedMs ||
    (a.jobId < b.jobId ? -1 : 1)
  );
}

/** A job that has a slot is being served: it does not rise, however long its tasks take. */
function pointsOf(job: Candidate, turn: Turn): number {
  if ((turn.byJob.get(job.jobId) ?? 0) > 0) return job.priority;
  return job.priority + Math.floor(groupWaitedMs(job, turn) / AGING_MS_PER_POINT);
}

function groupWaitedMs(job: Candidate, turn: Turn): number {
  return Math.min(job.waitedMs, turn.servedMsAgo.get(groupOf(job.user, job.priority)) ?? Number.POSITIVE_INFINITY);
}

function roomOf(turn: Turn, node: FreeNode): number {
  return node.slots - (turn.used.get(node.nodeId) ?? 0);
}

/** A place for the job whose turn it is. `kept`: a node is kept for it; `full`: there is none, for it and for all after it. */
function take(turn: Turn, job: Candidate): Allotment | "kept" | "full" {
  const open = turn.nodes.filter((node) => !turn.reserved.has(node.nodeId));
  if (open.length === 0) return "full";
  if (takesWholeNode(job.mode, job.kind)) return takeWhole(turn, job, open);
  const node = open.reduce((best, other) => (roomOf(turn, other) > roomOf(turn, best) ? other : best));
  if (roomOf(turn, node) + prefetchTasks(node.slots, job.taskMs) < 1) return "full";
  return { ...placeOf(job, node), count: 1, slotsPerRun: 1 };
}

function takeWhole(turn: Turn, job: Candidate, open: readonly FreeNode[]): Allotment | "kept" {
  const empty = open.find((node) => roomOf(turn, node) >= node.slots);
  if (empty === undefined) {
    const next = open.reduce((best, other) => (other.emptyInMs < best.emptyInMs ? other : best));
    turn.reserved.add(next.nodeId);
    // What is kept for it counts as its user's, or many such jobs of one user would keep every node.
    turn.byUser.set(job.user, (turn.byUser.get(job.user) ?? 0) + next.slots);
    job.left = 0;
    return "kept";
  }
  const keys = Math.min(job.left, keysPerRun(job.queued, open.length, job.attempt), turn.tasksLeft);
  return { ...placeOf(job, empty), count: job.kind === "key" ? keys : 1, slotsPerRun: empty.slots };
}

function placeOf(job: Candidate, node: FreeNode) {
  return { nodeId: node.nodeId, jobId: job.jobId, kind: job.kind, parentId: job.parentId };
}

/** Jobs that would have been given something, but for the limit. */
function keptByLimit(turn: Turn, candidates: readonly Candidate[]): string[] {
  const open = turn.nodes.filter((node) => !turn.reserved.has(node.nodeId));
  const hasSlot = open.some((node) => roomOf(turn, node) > 0);
  const hasNode = open.some((node) => roomOf(turn, node) >= node.slots);
  return candidates
    .filter((job) => !job.elsewhere && job.left === job.queued)
    .filter((job) => (takesWholeNode(job.mode, job.kind) ? hasNode : hasSlot))
    .map((job) => job.jobId);
}

function mergeAllotments(allotments: readonly Allotment[]): Allotment[] {
  const merged = new Map<string, Allotment>();
  for (const given of allotments) {
    const id = `${given.nodeId} ${given.jobId} ${given.kind} ${given.parentId}`;
    const before = merged.get(id);
    merged.set(id, before === undefined ? given : { ...before, count: before.count + given.count });
  }
  return [...merged.values()];
}
