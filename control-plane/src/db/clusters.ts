import type { ClusterShape, ClusterStatus, ErrorInfo, NodeStatus } from "@frazil/contracts";
import { CLUSTER, type ClusterEvent, NODE, type NodeEvent, sources, target } from "../domain/lifecycles.ts";
import type { Sql } from "./pool.ts";

export interface ClusterRow {
  readonly id: string;
  readonly workspace_id: string;
  readonly name: string | null;
  readonly cloud: string;
  readonly shape: ClusterShape;
  readonly shape_hash: string;
  readonly status: ClusterStatus;
  readonly revision: number;
  readonly idle_timeout_seconds: number;
  readonly nodes_made: number;
  readonly error: ErrorInfo | null;
  readonly created_at: Date;
  readonly ready_at: Date | null;
  readonly finished_at: Date | null;
  readonly request_hash: Buffer | null;
}

export interface NodeRow {
  readonly id: string;
  readonly cluster_id: string;
  readonly workspace_id: string;
  readonly status: NodeStatus;
  readonly handle: unknown;
  readonly created_at: Date;
  /** Seconds since the node was last heard of (or made), by the database's clock. */
  readonly silent_seconds: number;
  /** Since it was told to drain. */
  readonly stopping_seconds: number;
}

export interface NewCluster {
  readonly id: string;
  readonly workspaceId: string;
  readonly name: string | null;
  readonly shape: ClusterShape;
  readonly shapeHash: string;
  readonly idleTimeoutSeconds: number;
  readonly idempotencyKey: string | null;
  readonly requestHash: Buffer | null;
}

/** Undefined when the idempotency key was used before. */
export async function insertCluster(sql: Sql, cluster: NewCluster): Promise<ClusterRow | undefined> {
  const rows = await sql.query<ClusterRow>({
    text: `WITH made AS (INSERT INTO clusters (id, workspace_id, name, cloud, shape, shape_hash, status, idle_timeout_seconds, idempotency_key, request_hash)
        VALUES ($1, $2, $3, $4, $5, $6, 'requested', $7, $8, $9) ON CONFLICT (workspace_id, idempotency_key) DO NOTHING RETURNING *),
      event AS (INSERT INTO events (workspace_id, cluster_id, event) SELECT workspace_id, id, 'request' FROM made)
      SELECT * FROM made`,
    values: [
      cluster.id,
      cluster.workspaceId,
      cluster.name,
      cluster.shape.cloud,
      cluster.shape,
      cluster.shapeHash,
      cluster.idleTimeoutSeconds,
      cluster.idempotencyKey,
      cluster.requestHash,
    ],
  });
  return rows[0];
}

export async function findClusterByKey(sql: Sql, workspaceId: string, key: string): Promise<ClusterRow | undefined> {
  const rows = await sql.query<ClusterRow>({
    text: "SELECT * FROM clusters WHERE workspace_id = $1 AND idempotency_key = $2",
    values: [workspaceId, key],
  });
  return rows[0];
}

/** A cluster of this shape that can take a job; a ready one first. Serialises placements of the same shape, so that two jobs don't make two clusters. */
export async function findOpenCluster(
  sql: Sql,
  workspaceId: string,
  shapeHash: string,
): Promise<ClusterRow | undefined> {
  await sql.query({
    text: "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
    values: [`place ${workspaceId} ${shapeHash}`],
  });
  const rows = await sql.query<ClusterRow>({
    text: `SELECT * FROM clusters WHERE workspace_id = $1 AND shape_hash = $2 AND status IN ('ready', 'starting', 'requested')
      ORDER BY status = 'ready' DESC, id LIMIT 1`,
    values: [workspaceId, shapeHash],
  });
  return rows[0];
}

export async function loadCluster(sql: Sql, clusterId: string): Promise<ClusterRow | undefined> {
  const rows = await sql.query<ClusterRow>({ text: "SELECT * FROM clusters WHERE id = $1", values: [clusterId] });
  return rows[0];
}

/** Moves a cluster by an event, if it is where the event may happen. Undefined: stale. */
export async function moveCluster(
  sql: Sql,
  clusterId: string,
  event: ClusterEvent,
  error: ErrorInfo | null = null,
): Promise<ClusterRow | undefined> {
  const rows = await sql.query<ClusterRow>({
    text: `WITH moved AS (
        UPDATE clusters SET status = $2, revision = revision + 1, error = coalesce($3, error), due_at = now(),
          ready_at = CASE WHEN $2 = 'ready' THEN now() ELSE ready_at END, busy_at = CASE WHEN $2 = 'ready' THEN now() ELSE busy_at END,
          finished_at = CASE WHEN $2 = 'terminated' THEN now() END
        WHERE id = $1 AND status = ANY($4) RETURNING *
      ), event AS (INSERT INTO events (workspace_id, cluster_id, event, data) SELECT workspace_id, id, $5, $3::jsonb FROM moved)
      SELECT * FROM moved`,
    values: [clusterId, target(CLUSTER, event), error, sources(CLUSTER, event), event],
  });
  return rows[0];
}

export async function delayCluster(sql: Sql, clusterId: string, seconds: number): Promise<void> {
  await sql.query({
    text: "UPDATE clusters SET due_at = now() + make_interval(secs => $2) WHERE id = $1",
    values: [clusterId, seconds],
  });
}

/** Every cluster is due at once: who just started does not know what became of their nodes meanwhile. */
export async function hurryClusters(sql: Sql): Promise<void> {
  await sql.query({
    // One that is locked is in another process's hands right now.
    text: `UPDATE clusters SET due_at = now()
      FROM (SELECT id FROM clusters WHERE status <> 'terminated' AND due_at > now() FOR NO KEY UPDATE SKIP LOCKED) late WHERE clusters.id = late.id`,
    values: [],
  });
}

/** Nothing is put off longer. A time further ahead was written before the database's clock was set back. */
const DUE_WITHIN_MAX = "interval '5 minutes'";

/** Clusters in one of these statuses that are due. */
export async function findDueClusters(sql: Sql, statuses: readonly ClusterStatus[], limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `SELECT id FROM clusters WHERE status = ANY($1) AND due_at NOT BETWEEN now() AND now() + ${DUE_WITHIN_MAX} ORDER BY due_at LIMIT $2`,
    values: [statuses, limit],
  });
  return rows.map((row) => row.id);
}

/** Clusters that are gone and still have an open job: it came as they ended. */
export async function findDeserted(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `SELECT DISTINCT c.id FROM jobs j JOIN clusters c ON c.id = j.cluster_id
      WHERE j.status IN ('queued', 'running') AND c.status = 'terminated' LIMIT $1`,
    values: [limit],
  });
  return rows.map((row) => row.id);
}

/** Ready clusters without an open job for longer than their idle timeout. */
export async function findIdleClusters(sql: Sql, limit: number): Promise<string[]> {
  const rows = await sql.query<{ id: string }>({
    text: `SELECT id FROM clusters c WHERE status = 'ready' AND busy_at + make_interval(secs => idle_timeout_seconds) < now()
      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.cluster_id = c.id AND j.status IN ('queued', 'running')) LIMIT $1`,
    values: [limit],
  });
  return rows.map((row) => row.id);
}

/** Stops a cluster that is idle still: a job that came in between wins. */
export async function stopIfIdle(sql: Sql, clusterId: string): Promise<boolean> {
  const idle = await sql.query({
    text: `SELECT 1 FROM clusters c WHERE id = $1 AND status = 'ready' AND busy_at + make_interval(secs => idle_timeout_seconds) < now()
      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.cluster_id = c.id AND j.status IN ('queued', 'running')) FOR UPDATE`,
    values: [clusterId],
  });
  return idle.length > 0 && (await moveCluster(sql, clusterId, "stop")) !== undefined;
}

export async function countActiveJobs(sql: Sql, clusterId: string): Promise<number> {
  const rows = await sql.query<{ n: number }>({
    text: "SELECT count(*)::int AS n FROM jobs WHERE cluster_id = $1 AND status IN ('queued', 'running')",
    values: [clusterId],
  });
  return (rows[0] as { n: number }).n;
}

export interface NewNode {
  readonly id: string;
  readonly joinTokenHash: Buffer;
}

/** How many nodes a cluster lacks; its row is locked, so that nobody else orders them too. None once it is being stopped. */
export async function lockMissing(sql: Sql, cluster: ClusterRow): Promise<number> {
  const open = await sql.query({
    text: "SELECT 1 FROM clusters WHERE id = $1 AND status IN ('starting', 'ready') FOR NO KEY UPDATE",
    values: [cluster.id],
  });
  if (open.length === 0) return 0;
  const rows = await sql.query<{ n: number }>({
    text: "SELECT count(*)::int AS n FROM nodes WHERE cluster_id = $1 AND status IN ('requested', 'ready')",
    values: [cluster.id],
  });
  return Math.max(0, cluster.shape.clusterSize - (rows[0] as { n: number }).n);
}

/** Nodes that were ordered since a job of the cluster ended, or the cluster became ready: a cluster that ends jobs works, however many nodes it loses. */
export async function countNodesSinceBusy(sql: Sql, clusterId: string): Promise<number> {
  const rows = await sql.query<{ n: number }>({
    text: `SELECT count(*)::int AS n FROM nodes JOIN clusters ON clusters.id = nodes.cluster_id
      WHERE clusters.id = $1 AND nodes.created_at >= clusters.busy_at`,
    values: [clusterId],
  });
  return (rows[0] as { n: number }).n;
}

/** Writes the intent to make nodes, before any cloud is asked. */
export async function insertNodes(sql: Sql, cluster: ClusterRow, nodes: readonly NewNode[]): Promise<void> {
  await sql.query({
    text: `WITH made AS (INSERT INTO nodes (id, cluster_id, workspace_id, status, join_token_hash)
        SELECT n.id, $1, $2, 'requested', n.hash FROM unnest($3::text[], $4::bytea[]) AS n(id, hash) RETURNING id),
      counted AS (UPDATE clusters SET nodes_made = nodes_made + $5 WHERE id = $1)
      INSERT INTO events (workspace_id, cluster_id, node_id, event) SELECT $2, $1, id, 'request' FROM made`,
    values: [
      cluster.id,
      cluster.workspace_id,
      nodes.map((node) => node.id),
      nodes.map((node) => node.joinTokenHash),
      nodes.length,
    ],
  });
}

const NODE_COLUMNS = `id, cluster_id, workspace_id, status, handle, created_at,
  extract(epoch FROM now() - coalesce(seen_at, created_at))::float8 AS silent_seconds,
  coalesce(extract(epoch FROM now() - stopping_at), 0)::float8 AS stopping_seconds`;

/** Nodes of a cluster that are not terminated. */
export async function listNodes(sql: Sql, clusterId: string): Promise<NodeRow[]> {
  return sql.query<NodeRow>({
    text: `SELECT ${NODE_COLUMNS} FROM nodes WHERE cluster_id = $1 AND status <> 'terminated' ORDER BY id`,
    values: [clusterId],
  });
}

/** Keeps what the cloud knows a machine by. False: the node was given up while its machine was being made. */
export async function setNodeHandle(sql: Sql, nodeId: string, handle: unknown): Promise<boolean> {
  const rows = await sql.query({
    text: "UPDATE nodes SET handle = $2 WHERE id = $1 AND status <> 'terminated' RETURNING 1",
    values: [nodeId, JSON.stringify(handle)],
  });
  return rows.length > 0;
}

export async function moveNode(sql: Sql, nodeId: string, event: NodeEvent): Promise<boolean> {
  const rows = await sql.query({
    text: `WITH moved AS (UPDATE nodes SET status = $2, revision = revision + 1, finished_at = CASE WHEN $2 = 'terminated' THEN now() END,
          stopping_at = CASE WHEN $2 = 'stopping' THEN now() ELSE stopping_at END, node_token_hash = CASE WHEN $2 = 'terminated' THEN NULL ELSE node_token_hash END, join_token_hash = CASE WHEN $2 = 'terminated' THEN NULL ELSE join_token_hash END
        WHERE id = $1 AND status = ANY($3) RETURNING *),
      event AS (INSERT INTO events (workspace_id, cluster_id, node_id, event) SELECT workspace_id, cluster_id, id, $4 FROM moved)
      SELECT 1 FROM moved`,
    values: [nodeId, target(NODE, event), sources(NODE, event), event],
  });
  return rows.length > 0;
}

/** Turns a join token into a node token, once. */
export async function joinNode(
  sql: Sql,
  joinTokenHash: Buffer,
  nodeTokenHash: Buffer,
  facts: { hostname: string; pythons: string[] },
) {
  const rows = await sql.query<{ id: string; cluster_id: string }>({
    text: `WITH joined AS (UPDATE nodes SET join_token_hash = NULL, node_token_hash = $2, hostname = $3, pythons = $4, seen_at = now()
        WHERE join_token_hash = $1 AND status = 'requested' RETURNING *),
      event AS (INSERT INTO events (workspace_id, cluster_id, node_id, event) SELECT workspace_id, cluster_id, id, 'join' FROM joined)
      SELECT id, cluster_id FROM joined`,
    values: [joinTokenHash, nodeTokenHash, facts.hostname, JSON.stringify(facts.pythons)],
  });
  return rows[0];
}

export interface ConnectedNode {
  readonly id: string;
  readonly cluster_id: string;
  readonly workspace_id: string;
  readonly status: NodeStatus;
  readonly shape: ClusterShape;
}

/** A node that stops has still to say how what it runs ended. */
export async function findNodeByToken(sql: Sql, nodeTokenHash: Buffer): Promise<ConnectedNode | undefined> {
  const rows = await sql.query<ConnectedNode>({
    name: "node-by-token",
    text: `SELECT n.id, n.cluster_id, n.workspace_id, n.status, c.shape FROM nodes n JOIN clusters c ON c.id = n.cluster_id
      WHERE n.node_token_hash = $1 AND n.status IN ('requested', 'ready', 'lost', 'stopping')`,
    values: [nodeTokenHash],
  });
  return rows[0];
}

/** Marks a node as connected. */
export async function readyNode(sql: Sql, nodeId: string): Promise<void> {
  await sql.query({
    text: `UPDATE nodes SET status = 'ready', ready_at = coalesce(ready_at, now()), seen_at = now(), revision = revision + 1
      WHERE id = $1 AND status = ANY($2)`,
    values: [nodeId, [...sources(NODE, "join"), "ready"]],
  });
}

export interface Heartbeat {
  readonly nodeId: string;
  readonly cpuPercent: number;
  readonly memoryBytes: number;
}

/** Notes that nodes were heard of, all in one statement: a thousand nodes send hundreds of heartbeats a second. */
export async function touchNodes(sql: Sql, beats: readonly Heartbeat[]): Promise<void> {
  await sql.query({
    name: "touch-nodes",
    text: `WITH heard AS MATERIALIZED (
        SELECT n.id, b.cpu, b.memory FROM nodes n JOIN unnest($1::text[], $2::float8[], $3::bigint[]) AS b(id, cpu, memory) ON b.id = n.id
        ORDER BY n.id FOR NO KEY UPDATE OF n
      )
      UPDATE nodes SET seen_at = now(), cpu_percent = heard.cpu, memory_bytes = heard.memory FROM heard WHERE nodes.id = heard.id`,
    values: [
      beats.map((beat) => beat.nodeId),
      beats.map((beat) => beat.cpuPercent),
      beats.map((beat) => Math.round(beat.memoryBytes)),
    ],
  });
}
