import { type AttemptRef, type LeaseBatch, type RunTemplate, TaskId } from "@frazil/contracts";
import { type ConnectedNode, type LeasedTask, topics } from "./deps.ts";
import { type DispatchDeps, type DispatchState, makeDispatchState, refill, wake, wakeSoon } from "./fill.ts";
import {
  addLink,
  attemptOf,
  CLAIM_KEY,
  drop,
  expectLink,
  forgetLink,
  hold,
  holdAs,
  keyOf,
  type Link,
} from "./links.ts";
import { callBackEnded, recallLate } from "./recall.ts";
import { batchOf, messagesOf, runsOf } from "./run-batches.ts";

/** What was sent ahead of a node's slots is taken back when it has waited for so long, whoever waits for the node. */
const AHEAD_LATE_MS = 1_000;

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
  /** An attempt's slots are free again. When the node is not connected here, whoever it is connected to is told. */
  release(nodeId: string, attempt: AttemptRef, taskMs: number | undefined): void;
  /** What any process announces: work for a cluster; that attempts of a job were ended, which the nodes that are connected here stop; that slots are free. */
  hear(topic: string): void;
  wake(clusterId: string): void;
  /** Keeps an empty node for a task that takes a whole one and is about to be inserted, unless others wait for the cluster. */
  claim(wanted: { workspaceId: string; shapeHash: string; clusterId: string | null }): Claim | undefined;
  /** The claimed node got the task, in the database; now it is pushed. */
  deliver(claim: Claim, task: LeasedTask, template: RunTemplate): void;
  unclaim(claim: Claim): void;
  /** Content of a lease that was too large for a message. The node may be connected to another process. */
  describe(node: Pick<ConnectedNode, "id" | "shape">, attempts: readonly AttemptRef[]): Promise<LeaseBatch[]>;
  /** A node that is connected here: of this cluster, or of any of the workspace's. */
  anyLink(workspaceId: string, clusterId: string | null): Link | undefined;
  stats(): { nodes: number; slots: number; held: number };
}

export interface Claim {
  readonly nodeId: string;
  readonly link: Link;
}

export function makeDispatcher(deps: DispatchDeps): Dispatcher {
  const state = makeDispatchState(deps);
  const { links } = state;
  return {
    expect: (link) => expectLink(links, link),
    expects: (link) => links.expected.get(link.nodeId) === link,
    connect: (link, holding) => connect(state, link, holding),
    disconnect(link) {
      forgetLink(links, link);
      if (links.byCluster.has(link.clusterId)) return;
      state.progress.delete(link.clusterId);
      state.limits.yieldedTo.delete(link.clusterId);
    },
    keep: (nodeId, holding) => keep(state, nodeId, holding),
    release(nodeId, attempt, ms) {
      if (links.byNode.has(nodeId)) release(state, nodeId, attempt, ms);
      // What a node sends may be anything: only what is short and of one line is fit to be a topic.
      else if (TaskId.safeParse(attempt.taskId).success) deps.changes.notify(topics.freed(nodeId, keyOf(attempt)));
    },
    hear: (topic) => hear(state, topic),
    wake: (clusterId) => wake(state, clusterId),
    claim: (wanted) => claim(state, wanted),
    deliver: (claimed, task, template) => deliver(state, claimed, task, template),
    unclaim: (claimed) => unclaim(state, claimed),
    describe: (node, attempts) => describe(deps, node, attempts),
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

function hear(state: DispatchState, topic: string): void {
  const { log } = state.deps;
  const at = topic.indexOf(":");
  const kind = topic.slice(0, at);
  const about = topic.slice(at + 1);
  if (kind === "room") wake(state, about);
  if (kind === "cancel")
    callBackEnded(state, about).catch((error) => log.error({ err: error, job: about }, "could not tell of a cancel"));
  if (kind === "freed") {
    const [nodeId = "", key = ""] = about.split(" ");
    release(state, nodeId, attemptOf(key), undefined);
  }
}

async function connect(state: DispatchState, link: Link, holding: readonly LeasedTask[]): Promise<void> {
  if (state.links.expected.get(link.nodeId) !== link) return;
  const linkState = addLink(state.links, link);
  for (const [jobId, ofJob] of Map.groupBy(holding, (task) => task.job_id)) {
    const template = await state.deps.templates.of(jobId);
    for (const run of runsOf(state.deps, template, ofJob, link.slots)) hold(state.links, linkState, run, template);
  }
  wake(state, link.clusterId);
}

function claim(
  state: DispatchState,
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

function deliver(state: DispatchState, claimed: Claim, task: LeasedTask, template: RunTemplate): void {
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

function unclaim(state: DispatchState, claimed: Claim): void {
  const linkState = state.links.byNode.get(claimed.nodeId);
  if (linkState?.link === claimed.link) drop(state.links, linkState, CLAIM_KEY);
  refill(state, claimed.link.clusterId);
}

function release(state: DispatchState, nodeId: string, attempt: AttemptRef, ms: number | undefined): void {
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

function keep(state: DispatchState, nodeId: string, holding: readonly AttemptRef[]): void {
  const linkState = state.links.byNode.get(nodeId);
  if (linkState === undefined) return;
  const named = new Set(holding.map(keyOf));
  const oldestMs = performance.now() - state.deps.settings.leaseTtlMs;
  const gone = [...linkState.held].filter(([key, run]) => !named.has(key) && run.heldSinceMs < oldestMs);
  for (const [key] of gone) drop(state.links, linkState, key);
  if (gone.length > 0) wake(state, linkState.link.clusterId);
  if (linkState.usedSlots > linkState.link.slots) recallLate(state.times, linkState, AHEAD_LATE_MS);
}

async function describe(
  deps: DispatchDeps,
  node: Pick<ConnectedNode, "id" | "shape">,
  attempts: readonly AttemptRef[],
): Promise<LeaseBatch[]> {
  const batches: LeaseBatch[] = [];
  const tasks = await deps.db.leasing.loadLeased(deps.pool, node.id, attempts);
  for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
    const template = await deps.templates.of(jobId);
    for (const run of runsOf(deps, template, ofJob, node.shape.cpus)) batches.push(batchOf(run, template, ofJob));
  }
  return batches;
}
