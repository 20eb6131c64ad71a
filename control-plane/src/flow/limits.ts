import type { LeasableJob } from "../domain/assign.ts";
import { type Allowance, type Deps, topics } from "./deps.ts";

/** Other clusters of a workspace are told at most this often that there is something left for them of its limit. */
const YIELD_EVERY_MS = 20;
const YIELDED_KEPT_MAX = 1_000;
/** What was left to another cluster is kept for it so long, and is taken after that if it did not come for it. */
export const YIELD_PATIENCE_MS = 100;

type LimitDeps = Pick<Deps, "db" | "pool" | "changes">;

/** Of workspaces that may have only so many tasks on nodes at once. */
export interface LimitState {
  /** Clusters whose jobs waited, at the last look, for that limit alone: those jobs. */
  readonly limited: Map<string, ReadonlySet<string>>;
  readonly yieldedAtMs: Map<string, number>;
  /** By cluster: to whom it left something that they have not taken yet. */
  readonly yieldedTo: Map<string, ReadonlyMap<string, Yielded>>;
}

interface Yielded {
  /** Tasks that they had taken by then. */
  readonly taken: number;
  readonly atMs: number;
}

type Rival = Allowance["rivals"][number];

export const rivalId = ({ clusterId, user, priority }: Rival) => `${clusterId} ${user} ${priority}`;

/**
 * Those to whom something of the limit may be left. Not who has taken nothing of what was left for a while: it may be unable to (its nodes are taken), or
 * leave it to this cluster in turn, and then nobody would take it.
 */
export function rivalsInTurn(state: LimitState, clusterId: string, rivals: readonly Rival[], nowMs: number): Rival[] {
  const before = state.yieldedTo.get(clusterId);
  return rivals.filter((rival) => {
    const left = before?.get(rivalId(rival));
    return left === undefined || left.taken !== rival.taken || nowMs - left.atMs < YIELD_PATIENCE_MS;
  });
}

/** What waits in another cluster takes its turn here too: one task at a look, which is left to it. */
export function asLeasable(rival: Rival): LeasableJob {
  return {
    ...rival,
    jobId: rivalId(rival),
    mode: "many",
    kind: "query",
    parentId: null,
    attempt: 0,
    queued: 1,
    taskMs: undefined,
    elsewhere: true,
  };
}

/** What a look left to others. Once this cluster has taken what somebody did not come for, that one gets another chance. */
export function noteYielded(
  state: LimitState,
  clusterId: string,
  look: { hasTaken: boolean; yieldedTo: readonly string[]; rivals: readonly Rival[]; nowMs: number },
): void {
  const before = state.yieldedTo.get(clusterId);
  const now = new Map<string, Yielded>();
  for (const rival of look.rivals) {
    const id = rivalId(rival);
    const left = before?.get(id);
    if (left !== undefined && left.taken === rival.taken) {
      if (!look.hasTaken || look.nowMs - left.atMs < YIELD_PATIENCE_MS) now.set(id, left);
    } else if (look.yieldedTo.includes(id)) now.set(id, { taken: rival.taken, atMs: look.nowMs });
  }
  if (now.size === 0) state.yieldedTo.delete(clusterId);
  else state.yieldedTo.set(clusterId, now);
}

/** Something of the limit was left to other clusters: their dispatchers look. */
export function tellRivals(deps: LimitDeps, state: LimitState, rivals: readonly Rival[]): void {
  const now = performance.now();
  for (const clusterId of new Set(rivals.map((rival) => rival.clusterId))) {
    if (now - (state.yieldedAtMs.get(clusterId) ?? Number.NEGATIVE_INFINITY) < YIELD_EVERY_MS) continue;
    state.yieldedAtMs.delete(clusterId);
    state.yieldedAtMs.set(clusterId, now);
    if (state.yieldedAtMs.size > YIELDED_KEPT_MAX)
      state.yieldedAtMs.delete(state.yieldedAtMs.keys().next().value as string);
    deps.changes.notify(topics.room(clusterId));
  }
}

/** Says in the jobs' phase that they wait for the workspace's limit, and takes it back when they no longer do. */
export async function showLimited(
  deps: LimitDeps,
  state: LimitState,
  waiting: { readonly clusterId: string; readonly jobIds: readonly string[]; readonly max: number | null },
): Promise<void> {
  const { clusterId, jobIds: limited, max } = waiting;
  const before = state.limited.get(clusterId) ?? new Set();
  const now = new Set(limited);
  if (now.size === 0) state.limited.delete(clusterId);
  else state.limited.set(clusterId, now);
  const say = async (jobIds: readonly string[], phase: string) => {
    if (jobIds.length === 0) return;
    for (const jobId of await deps.db.jobs.setWaitingPhase(deps.pool, jobIds, phase))
      deps.changes.notify(topics.job(jobId));
  };
  await say(
    limited.filter((jobId) => !before.has(jobId)),
    `waiting: the workspace runs its ${max} tasks`,
  );
  await say(
    [...before].filter((jobId) => !now.has(jobId)),
    "waiting for a node",
  );
}
