import type { AttemptRef, Run, RunTemplate, ToNode } from "@frazil/contracts";
import { groupOf } from "../domain/assign.ts";

/** A connected node, as far as leasing goes. */
export interface Link {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly workspaceId: string;
  readonly shapeHash: string;
  readonly slots: number;
  send(message: ToNode): void;
}

export interface HeldRun {
  readonly jobId: string;
  readonly user: string;
  readonly slots: number;
  /** Of its job, when it was leased by this process and the connection has lasted since. */
  readonly priority: number | undefined;
  /** On this process's own clock. */
  readonly heldSinceMs: number;
  /** Attempts of it that have not ended. */
  open: number;
  /** The node was asked to give it back if it has not begun it. */
  recalled: boolean;
}

export interface LinkState {
  readonly link: Link;
  readonly cluster: ClusterLinks;
  /** By attempt, in the order in which they were given. */
  readonly held: Map<string, HeldRun>;
  usedSlots: number;
}

/** What of a cluster is connected to this process. */
export interface ClusterLinks {
  readonly workspaceId: string;
  readonly links: Set<LinkState>;
  /** Slots in use, by user and by job. */
  readonly byUser: Map<string, number>;
  readonly byJob: Map<string, number>;
  /** When a job of a user and priority was last given a slot or gave one back, on this process's own clock. */
  readonly servedAtMs: Map<string, number>;
}

/** The nodes that are connected to this process. All of it can be rebuilt from the database and the nodes' connections. */
export interface Links {
  readonly byNode: Map<string, LinkState>;
  /** The newest connection of each node, from its hello until it closes. */
  readonly expected: Map<string, Link>;
  readonly byCluster: Map<string, ClusterLinks>;
  /** Nodes that were given something of a job and have not answered for it. */
  readonly byJob: Map<string, Map<LinkState, number>>;
}

export function makeLinks(): Links {
  return { byNode: new Map(), expected: new Map(), byCluster: new Map(), byJob: new Map() };
}

/** Stands for a task to come among what a node holds. */
export const CLAIM_KEY = "claim";
export const keyOf = (attempt: AttemptRef) => `${attempt.taskId}#${attempt.attempt}`;
export function attemptOf(key: string): AttemptRef {
  const [taskId = "", attempt] = key.split("#");
  return { taskId, attempt: Number(attempt) };
}

export function addLink(links: Links, link: Link): LinkState {
  removeLink(links, link.nodeId);
  const cluster = links.byCluster.get(link.clusterId) ?? {
    workspaceId: link.workspaceId,
    links: new Set(),
    byUser: new Map(),
    byJob: new Map(),
    servedAtMs: new Map(),
  };
  links.byCluster.set(link.clusterId, cluster);
  const state: LinkState = { link, cluster, held: new Map(), usedSlots: 0 };
  cluster.links.add(state);
  links.byNode.set(link.nodeId, state);
  return state;
}

/** The node said hello over this link: what it had before gets nothing more. */
export function expectLink(links: Links, link: Link): void {
  removeLink(links, link.nodeId);
  links.expected.set(link.nodeId, link);
}

/** The link closed, maybe before it was added. */
export function forgetLink(links: Links, link: Link): void {
  if (links.byNode.get(link.nodeId)?.link === link) removeLink(links, link.nodeId);
  if (links.expected.get(link.nodeId) === link) links.expected.delete(link.nodeId);
}

function removeLink(links: Links, nodeId: string): void {
  const state = links.byNode.get(nodeId);
  if (state === undefined) return;
  for (const key of [...state.held.keys()]) drop(links, state, key);
  links.byNode.delete(nodeId);
  state.cluster.links.delete(state);
  if (state.cluster.links.size === 0) links.byCluster.delete(state.link.clusterId);
}

/** The node was given a run. */
export function hold(links: Links, state: LinkState, run: Run, job: HeldJob): void {
  const { jobId, user, priority } = job;
  holdAs(links, state, run.tasks.map(keyOf), { jobId, user, priority, slots: run.slots });
}

export type HeldJob = Pick<RunTemplate, "jobId" | "user"> & { readonly priority?: number | undefined };

export function holdAs(
  links: Links,
  state: LinkState,
  keys: readonly string[],
  run: Pick<HeldRun, "jobId" | "user" | "slots" | "priority">,
): void {
  // A connection that has ended meanwhile: what was sent is counted when the node says what it has.
  if (links.byNode.get(state.link.nodeId) !== state) return;
  const fresh = keys.filter((key) => !state.held.has(key));
  if (fresh.length === 0) return;
  const held: HeldRun = { ...run, heldSinceMs: performance.now(), open: fresh.length, recalled: false };
  for (const key of fresh) state.held.set(key, held);
  count(links, state, held, 1);
  noteServed(state.cluster, held);
}

/** An attempt has ended: the run's slots are free when it was the last of it. */
export function drop(links: Links, state: LinkState, key: string): HeldRun | undefined {
  const held = state.held.get(key);
  if (held === undefined) return undefined;
  state.held.delete(key);
  held.open -= 1;
  if (held.open > 0) return held;
  count(links, state, held, -1);
  noteServed(state.cluster, held);
  return held;
}

function count(links: Links, state: LinkState, run: HeldRun, sign: 1 | -1): void {
  state.usedSlots += sign * run.slots;
  add(state.cluster.byUser, run.user, sign * run.slots);
  add(state.cluster.byJob, run.jobId, sign * run.slots);
  const ofJob = links.byJob.get(run.jobId) ?? new Map<LinkState, number>();
  add(ofJob, state, sign);
  if (ofJob.size === 0) links.byJob.delete(run.jobId);
  else links.byJob.set(run.jobId, ofJob);
}

function add<K>(counts: Map<K, number>, key: K, by: number): void {
  const sum = (counts.get(key) ?? 0) + by;
  if (sum === 0) counts.delete(key);
  else counts.set(key, sum);
}

/** Users and priorities whose last slot is remembered, per cluster; one that is forgotten counts from its oldest waiting job. */
const SERVED_KEPT_MAX = 1_000;

function noteServed(cluster: ClusterLinks, { user, priority }: HeldRun): void {
  if (priority === undefined) return;
  const group = groupOf(user, priority);
  cluster.servedAtMs.delete(group);
  cluster.servedAtMs.set(group, performance.now());
  if (cluster.servedAtMs.size > SERVED_KEPT_MAX)
    cluster.servedAtMs.delete(cluster.servedAtMs.keys().next().value as string);
}
