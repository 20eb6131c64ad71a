import {
  Cluster,
  ClusterId,
  ClusterStatus,
  Me,
  POLARS_RELEASES,
  Problem,
  pageOf,
  StartCluster,
} from "@frazil/contracts";
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { stopCluster } from "../flow/place.ts";
import { startCluster } from "../flow/start-cluster.ts";
import { VERSION } from "../version.ts";
import { type AppEnv, whileGood } from "./auth.ts";
import { IdempotencyHeaders, IdPageQuery, jsonContent, newApp, problems, security, WaitSeconds } from "./openapi.ts";
import { type HttpDeps, readCluster, waitForCluster } from "./reads.ts";
import { viewCluster } from "./views.ts";

const ClusterParam = z.object({ id: ClusterId });

const list = createRoute({
  method: "get",
  path: "/v1/clusters",
  summary: "Clusters of the workspace, newest first",
  security,
  request: { query: IdPageQuery.extend({ status: ClusterStatus.optional() }) },
  responses: { 200: jsonContent(pageOf(Cluster), "A page"), ...problems(400) },
});
const start = createRoute({
  method: "post",
  path: "/v1/clusters",
  summary: "Start a cluster",
  security,
  request: {
    headers: IdempotencyHeaders,
    body: { required: true, content: { "application/json": { schema: StartCluster } } },
  },
  responses: { 202: jsonContent(Cluster, "Being started"), ...problems(400, 408, 413, 422) },
});
const get = createRoute({
  method: "get",
  path: "/v1/clusters/{id}",
  summary: "A cluster",
  security,
  request: { params: ClusterParam },
  responses: { 200: jsonContent(Cluster, "The cluster"), ...problems(400, 404) },
});
const wait = createRoute({
  method: "get",
  path: "/v1/clusters/{id}/wait",
  summary: "Wait until a cluster is ready or gone",
  security,
  request: { params: ClusterParam, query: z.object({ timeout: WaitSeconds.default(30) }) },
  responses: { 200: jsonContent(Cluster, "The cluster as it is then"), ...problems(400, 404) },
});
const stop = createRoute({
  method: "post",
  path: "/v1/clusters/{id}/stop",
  summary: "Stop a cluster",
  security,
  request: { params: ClusterParam },
  responses: { 202: jsonContent(Cluster, "Being stopped"), ...problems(400, 404) },
});
const me = createRoute({
  method: "get",
  path: "/v1/me",
  summary: "Whose token this is, and what this installation offers",
  security,
  responses: { 200: jsonContent(Me, "You"), ...problems() },
});

export function clusterRoutes(deps: HttpDeps): OpenAPIHono<AppEnv> {
  const app = newApp();
  app.openapi(list, async (c) => {
    const { limit, cursor, status } = c.req.valid("query");
    const rows = await deps.db.pages.pageClusters(deps.prisma, c.get("caller").workspaceId, status, cursor, limit);
    const items = await Promise.all(
      rows.map(async ({ row, nodes }) =>
        viewCluster(row, nodes, await deps.db.clusters.countActiveJobs(deps.pool, row.id)),
      ),
    );
    return c.json({ items, nextCursor: rows.length === limit ? (rows.at(-1)?.row.id ?? null) : null }, 200);
  });
  app.openapi(start, async (c) => {
    const wanted = c.req.valid("json");
    const { workspaceId, workspace } = c.get("caller");
    const idempotencyKey = c.req.valid("header")["idempotency-key"] ?? null;
    const id = await startCluster(deps, workspace, wanted, idempotencyKey);
    return c.json(await readCluster(deps, workspaceId, id), 202);
  });
  app.openapi(get, async (c) =>
    c.json(await readCluster(deps, c.get("caller").workspaceId, c.req.valid("param").id), 200),
  );
  app.openapi(wait, async (c) => {
    const { id } = c.req.valid("param");
    const seconds = c.req.valid("query").timeout;
    const cluster = await whileGood(deps, c, (signal) =>
      waitForCluster(deps, c.get("caller").workspaceId, id, { seconds, signal }),
    );
    return c.json(cluster, 200);
  });
  app.openapi(stop, async (c) => {
    const { workspaceId } = c.get("caller");
    const cluster = await readCluster(deps, workspaceId, c.req.valid("param").id);
    await stopCluster(deps, cluster.id);
    return c.json(await readCluster(deps, workspaceId, cluster.id), 202);
  });
  app.openapi(me, async (c) => {
    const { workspaceId, user } = c.get("caller");
    const workspace = await deps.db.tokens.loadWorkspace(deps.pool, workspaceId);
    if (workspace === undefined) throw new Problem("unauthenticated", "This token's workspace is gone.");
    const body: Me = {
      workspace: { id: workspace.id, name: workspace.name },
      user,
      serverVersion: VERSION,
      defaultContext: workspace.default_context,
      resultsLocation: workspace.results_location,
      polars: POLARS_RELEASES.map((release) => release.version),
    };
    return c.json(body, 200);
  });
  return app;
}
