import { type ErrorInfo, IDLE_TIMEOUT_DEFAULT_SECONDS, isFinalJobStatus, mintId, NODE_ENV } from "@frazil/contracts";
import type { NodeOrder } from "@frazil/infra";
import { hashShape } from "../domain/shape.ts";
import { mintNodeToken } from "../domain/tokens.ts";
import { type ClusterRow, type Deps, type JobRow, type NodeRow, topics } from "./deps.ts";
import { endJobWithout, requeueHeld } from "./settle.ts";
import { cloudOf } from "./submit.ts";

/** A node that was ordered but has not connected by then is given up. */
const NODE_BOOT_SECONDS_MAX = 120;
/** The order of a node was written, but no machine is there: the process that was to make it died in between. */
const NODE_ORDER_SECONDS_MAX = 10;
/** A node that was not heard of for so long is lost; where leases last longer, for two of them. Its leases ran out before. */
const NODE_SILENT_SECONDS_MAX = 30;
/** After so many times its size of nodes without the end of a job, a cluster is given up: its nodes don't stay up. */
const REPLACEMENTS_MAX = 20;
/** Heartbeats in the time of a lease: one may come late, and some may be lost. */
const HEARTBEATS_PER_LEASE = 5;
const SUPERVISE_SECONDS = 2;
const STOP_POLL_SECONDS = 1;
/** A draining node is ended by force after this. */
const DRAIN_SECONDS_MAX = 60;

/** Gives a job a cluster: an open one of its shape, or a new one. */
export async function place(deps: Deps, jobId: string): Promise<void> {
  const job = await deps.db.jobs.loadJob(deps.pool, jobId);
  if (!isUnplaced(job)) return;
  const cluster = await deps.pool.transact(async (sql) => {
    // A job that ends just now must leave no cluster behind.
    if (!isUnplaced(await deps.db.jobs.lockJob(sql, jobId))) return undefined;
    const open = await deps.db.clusters.findOpenCluster(sql, job.workspace_id, hashShape(job.shape));
    const chosen =
      open ??
      (await deps.db.clusters.insertCluster(sql, {
        id: mintId("cluster"),
        workspaceId: job.workspace_id,
        name: null,
        shape: job.shape,
        shapeHash: hashShape(job.shape),
        idleTimeoutSeconds: job.spec.context?.idleTimeoutSeconds ?? IDLE_TIMEOUT_DEFAULT_SECONDS,
        idempotencyKey: null,
        requestHash: null,
      }));
    if (chosen === undefined) throw new Error("a cluster without an idempotency key was not inserted");
    return (await deps.db.jobs.placeJob(sql, jobId, chosen.id)) ? chosen : undefined;
  });
  if (cluster === undefined) return;
  if (cluster.status === "requested") deps.queue.send("provision", cluster.id);
  deps.changes.notify(topics.job(jobId));
  deps.changes.notify(topics.room(cluster.id));
}

function isUnplaced(job: JobRow | undefined): job is JobRow {
  return job !== undefined && !isFinalJobStatus(job.status) && job.cluster_id === null;
}

/** First step of a cluster's life: the intent is committed, now the cloud may be asked. */
export async function provision(deps: Deps, clusterId: string): Promise<void> {
  if ((await deps.db.clusters.moveCluster(deps.pool, clusterId, "start")) === undefined) return;
  await supervise(deps, clusterId);
}

/** Holds a starting or ready cluster at its size: replaces nodes that are gone, and makes it ready once one is. */
export async function supervise(deps: Deps, clusterId: string): Promise<void> {
  const cluster = await deps.db.clusters.loadCluster(deps.pool, clusterId);
  if (cluster === undefined || (cluster.status !== "starting" && cluster.status !== "ready")) return;
  const nodes = await settleNodes(deps, cluster);
  const ready = nodes.filter((node) => node.status === "ready").length;
  const missing = cluster.shape.clusterSize - nodes.length;
  await deps.db.clusters.delayCluster(deps.pool, clusterId, SUPERVISE_SECONDS);
  if (missing > 0 && !(await makeNodes(deps, cluster, missing))) return;
  if (cluster.status === "ready") return;
  if (ready > 0) {
    await deps.db.clusters.moveCluster(deps.pool, clusterId, "ready");
    deps.changes.notify(topics.cluster(clusterId));
    deps.changes.notify(topics.room(clusterId));
  } else {
    for (const jobId of await deps.db.jobs.setClusterPhase(deps.pool, clusterId, "starting the cluster"))
      deps.changes.notify(topics.job(jobId));
  }
}

/** Compares what we hold of the nodes with the cloud's word. Returns those that serve or will serve. */
async function settleNodes(deps: Deps, cluster: ClusterRow): Promise<NodeRow[]> {
  const cloud = cloudOf(deps, cluster.shape);
  const nodes = await deps.db.clusters.listNodes(deps.pool, cluster.id);
  const alive = await cloud.listAlive(nodes.map(asMachine));
  const serving: NodeRow[] = [];
  // What nodes said while Postgres or every control plane was away was kept by nobody.
  const heardForSeconds = deps.changes.healthyForMs() / 1_000;
  for (const node of nodes) {
    const silent_seconds = Math.min(node.silent_seconds, heardForSeconds);
    const verdict = judgeNode({ ...node, silent_seconds }, alive.has(node.id), deps.settings.leaseTtlMs);
    if (verdict === "serves") serving.push(node);
    else await giveUpNode(deps, node, cloud, verdict);
  }
  return serving;
}

/** Pure: what is to be done with a node. */
export function judgeNode(
  node: Pick<NodeRow, "status" | "silent_seconds">,
  alive: boolean,
  leaseTtlMs: number,
): "serves" | "gone" | "end" {
  if (!alive) return node.status === "requested" && node.silent_seconds < NODE_ORDER_SECONDS_MAX ? "serves" : "gone";
  if (node.status === "requested") return node.silent_seconds < NODE_BOOT_SECONDS_MAX ? "serves" : "end";
  const silentSecondsMax = Math.max(NODE_SILENT_SECONDS_MAX, (2 * leaseTtlMs) / 1_000);
  return node.status === "ready" && node.silent_seconds < silentSecondsMax ? "serves" : "end";
}

async function giveUpNode(
  deps: Deps,
  node: NodeRow,
  cloud: ReturnType<typeof cloudOf>,
  verdict: "gone" | "end",
): Promise<void> {
  deps.log.warn({ node: node.id, cluster: node.cluster_id, status: node.status, verdict }, "node given up");
  await deps.db.clusters.moveNode(deps.pool, node.id, "lose");
  await requeueHeld(deps, node.id);
  await cloud.destroyNode(asMachine(node), "force");
  if (verdict === "gone") await deps.db.clusters.moveNode(deps.pool, node.id, "terminate");
}

/** Orders nodes: the rows first, then the machines. False when the cluster was given up. */
async function makeNodes(deps: Deps, cluster: ClusterRow, count: number): Promise<boolean> {
  const made = await deps.db.clusters.countNodesSinceBusy(deps.pool, cluster.id);
  if (made + count > (1 + REPLACEMENTS_MAX) * cluster.shape.clusterSize) {
    await failCluster(deps, cluster.id, {
      code: "cluster_failed",
      message: `The nodes of cluster ${cluster.id} do not stay up; look at its nodes' logs.`,
    });
    return false;
  }
  const orders = await deps.pool.transact(async (sql) => {
    const missing = Math.min(count, await deps.db.clusters.lockMissing(sql, cluster));
    const made = Array.from({ length: missing }, () => ({ id: mintId("node"), join: mintNodeToken("join") }));
    const rows = made.map(({ id, join }) => ({ id, joinTokenHash: join.hash }));
    if (rows.length > 0) await deps.db.clusters.insertNodes(sql, cluster, rows);
    return made;
  });
  const cloud = cloudOf(deps, cluster.shape);
  for (const { id, join } of orders) {
    const answer = await cloud.createNode(orderOf(deps, cluster, id, join.token));
    if (answer.kind === "made") {
      const wanted = await deps.db.clusters.setNodeHandle(deps.pool, id, answer.handle);
      if (!wanted) await cloud.destroyNode({ nodeId: id, handle: answer.handle }, "force");
      continue;
    }
    const code = answer.kind === "no_capacity" ? "capacity" : "cluster_failed";
    await failCluster(deps, cluster.id, { code, message: answer.detail });
    return false;
  }
  return true;
}

function orderOf(deps: Deps, cluster: ClusterRow, nodeId: string, joinToken: string): NodeOrder {
  return {
    nodeId,
    clusterId: cluster.id,
    workspaceId: cluster.workspace_id,
    shape: cluster.shape,
    environment: {
      [NODE_ENV.address]: deps.settings.address,
      [NODE_ENV.joinToken]: joinToken,
      [NODE_ENV.cacheDir]: deps.settings.cacheDir,
      [NODE_ENV.heartbeatIntervalMs]: String(Math.ceil(deps.settings.leaseTtlMs / HEARTBEATS_PER_LEASE)),
    },
  };
}

/** Gives a cluster up: its jobs fail with the reason. */
async function failCluster(deps: Deps, clusterId: string, error: ErrorInfo): Promise<void> {
  const stopping = await deps.db.clusters.moveCluster(deps.pool, clusterId, "stop", error);
  if (stopping === undefined) return;
  await moveJobsAway(deps, stopping);
  deps.changes.notify(topics.cluster(clusterId));
  deps.queue.send("stop", clusterId);
}

/** Stops a cluster on request. Jobs that were pinned to it fail; the others are placed anew. */
export async function stopCluster(deps: Deps, clusterId: string): Promise<boolean> {
  if ((await deps.db.clusters.moveCluster(deps.pool, clusterId, "stop")) === undefined) return false;
  deps.changes.notify(topics.cluster(clusterId));
  deps.queue.send("stop", clusterId);
  return true;
}

/** Step: the cluster had nothing to do for its idle timeout. */
export async function stopIdle(deps: Deps, clusterId: string): Promise<void> {
  if (!(await deps.pool.transact((sql) => deps.db.clusters.stopIfIdle(sql, clusterId)))) return;
  deps.changes.notify(topics.cluster(clusterId));
  deps.queue.send("stop", clusterId);
}

/** Step: ends the nodes of a stopping cluster; `terminated` only when the cloud no longer has one. A job that came just then is moved away later still. */
export async function tearDown(deps: Deps, clusterId: string): Promise<void> {
  const cluster = await deps.db.clusters.loadCluster(deps.pool, clusterId);
  if (cluster === undefined || (cluster.status !== "stopping" && cluster.status !== "terminated")) return;
  await moveJobsAway(deps, cluster);
  if (cluster.status === "terminated") return;
  const cloud = cloudOf(deps, cluster.shape);
  const nodes = await deps.db.clusters.listNodes(deps.pool, clusterId);
  const alive = await cloud.listAlive(nodes.map(asMachine));
  for (const node of nodes) {
    if (alive.has(node.id)) {
      await cloud.destroyNode(asMachine(node), node.stopping_seconds > DRAIN_SECONDS_MAX ? "force" : "drain");
      await deps.db.clusters.moveNode(deps.pool, node.id, "stop");
    } else {
      await requeueHeld(deps, node.id);
      await cloud.destroyNode(asMachine(node), "force");
      await deps.db.clusters.moveNode(deps.pool, node.id, "terminate");
    }
  }
  if (alive.size === 0) await deps.db.clusters.moveCluster(deps.pool, clusterId, "terminate");
  else await deps.db.clusters.delayCluster(deps.pool, clusterId, STOP_POLL_SECONDS);
  deps.changes.notify(topics.cluster(clusterId));
}

/** No job stays on a cluster that ends. Jobs of one that was given up fail with it; but those that came afterwards find another. */
async function moveJobsAway(deps: Deps, cluster: ClusterRow): Promise<void> {
  const isGivenUp = cluster.error !== null && cluster.status === "stopping";
  const error = cluster.error ?? {
    code: "cluster_failed" as const,
    message: `Cluster ${cluster.id} was stopped while the job was on it.`,
    hint: "Start a new cluster, and retry the job.",
  };
  const bound = await deps.db.jobs[isGivenUp ? "findOpenJobs" : "findPinned"](deps.pool, cluster.id);
  for (const jobId of bound) await endJobWithout(deps, jobId, error);
  for (const jobId of await deps.db.jobs.unplaceJobs(deps.pool, cluster.id)) {
    deps.queue.send("place", jobId);
    deps.changes.notify(topics.job(jobId));
  }
}

function asMachine(node: NodeRow) {
  return { nodeId: node.id, handle: node.handle as Record<string, unknown> | null };
}
