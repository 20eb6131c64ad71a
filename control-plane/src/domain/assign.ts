import { type JobMode, KEYS_PER_RUN_MAX, type TaskKind } from "@frazil/contracts";

/** What one fill may lease to one node, so that a single message and statement stay small. */
const LEASE_TASKS_MAX = 256;

export interface FreeNode {
  readonly nodeId: string;
  readonly slots: number;
  /** Slots that hold or will hold a run; may exceed `slots` by what was prefetched. */
  readonly usedSlots: number;
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
}

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

interface Candidate extends LeasableJob {
  left: number;
}

/**
 * Shares the room of a cluster's nodes out among its jobs: highest priority first, then the user with the fewest slots in use, then the job with the fewest,
 * then the oldest. Where the one whose turn it is needs a whole node and none is empty, the least busy node is kept for it.
 */
export function assign(nodes: readonly FreeNode[], jobs: readonly LeasableJob[], load: Load): Allotment[] {
  const used = new Map(nodes.map((node) => [node.nodeId, node.usedSlots]));
  const reserved = new Set<string>();
  const byUser = new Map(load.byUser);
  const byJob = new Map(load.byJob);
  const candidates: Candidate[] = jobs.map((job) => ({ ...job, left: job.queued }));
  const allotments: Allotment[] = [];
  for (let step = 0; step < LEASE_TASKS_MAX * Math.max(1, nodes.length); step++) {
    const open = nodes.filter((node) => !reserved.has(node.nodeId));
    const job = nextInTurn(candidates, byUser, byJob);
    if (job === undefined || open.length === 0) break;
    const node = open.reduce((best, other) => (roomOf(other, used) > roomOf(best, used) ? other : best));
    const given = take(job, node, used, open.length);
    if (given === undefined) {
      if (takesWholeNode(job.mode, job.kind)) reserved.add(node.nodeId);
      job.left = 0;
      continue;
    }
    allotments.push(given);
    const slots = given.slotsPerRun * (job.kind === "key" ? 1 : given.count);
    used.set(node.nodeId, (used.get(node.nodeId) ?? 0) + slots);
    byUser.set(job.user, (byUser.get(job.user) ?? 0) + slots);
    byJob.set(job.jobId, (byJob.get(job.jobId) ?? 0) + slots);
    job.left -= given.count;
  }
  return mergeAllotments(allotments);
}

function roomOf(node: FreeNode, used: ReadonlyMap<string, number>): number {
  return node.slots - (used.get(node.nodeId) ?? 0);
}

function nextInTurn(candidates: Candidate[], byUser: ReadonlyMap<string, number>, byJob: ReadonlyMap<string, number>) {
  let best: Candidate | undefined;
  for (const job of candidates) {
    if (job.left <= 0) continue;
    if (best === undefined || compareTurn(job, best, byUser, byJob) < 0) best = job;
  }
  return best;
}

function compareTurn(
  a: LeasableJob,
  b: LeasableJob,
  byUser: ReadonlyMap<string, number>,
  byJob: ReadonlyMap<string, number>,
) {
  return (
    b.priority - a.priority ||
    (byUser.get(a.user) ?? 0) - (byUser.get(b.user) ?? 0) ||
    (byJob.get(a.jobId) ?? 0) - (byJob.get(b.jobId) ?? 0) ||
    (a.jobId < b.jobId ? -1 : 1)
  );
}

function take(job: Candidate, node: FreeNode, used: ReadonlyMap<string, number>, nodes: number): Allotment | undefined {
  const room = roomOf(node, used);
  const base = { nodeId: node.nodeId, jobId: job.jobId, kind: job.kind, parentId: job.parentId };
  if (takesWholeNode(job.mode, job.kind)) {
    if (room < node.slots) return undefined;
    const count = job.kind === "key" ? Math.min(job.left, keysPerRun(job.queued, nodes, job.attempt)) : 1;
    return { ...base, count, slotsPerRun: node.slots };
  }
  if (room + prefetchTasks(node.slots, job.taskMs) < 1) return undefined;
  return { ...base, count: 1, slotsPerRun: 1 };
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
