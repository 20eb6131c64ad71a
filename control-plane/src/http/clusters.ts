import {
  Cluster,
  ClusterId,
  ClusterStatus,
  Me,
  mintId,
  POLARS_RELEASES,
  Problem,
  pageOf,
  StartCluster,
} from "@frazil/contracts";
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { hashShape, shapeOf } from "../domain/shape.ts";
import { stopCluster } from "../flow/place.ts";
import { cloudOf, defaultCloud } from "../flow/submit.ts";
import { VERSION } from "../version.ts";
import type { AppEnv } from "./auth.ts";
import { idCursor, jsonContent, newApp, PageQuery, problems, security, WaitSeconds } from "./openapi.ts";
import { type HttpDeps, readCluster, waitForCluster } from "./reads.ts";
import { viewCluster } from "./views.ts";

const ClusterParam = z.object({ id: ClusterId });

const list = createRoute({
  method: "get",
  path: "/v1/clusters",
  summary: "Clusters of the workspace, newest first",
  security,
  request: { query: PageQuery.extend({ status: ClusterStatus.optional() }) },
  responses: { 200: jsonContent(pageOf(Cluster), "A page"), ...problems(400) },
});
const start = createRoute({
  method: "post",
  path: "/v1/clusters",
  summary: "Start a cluster",
  security,
  request: { body: { required: true, content: { "application/json": { schema: StartCluster } } } },
  responses: { 202: jsonContent(Cluster, "Being started"), ...problems(400, 413, 422) },
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
    const rows = await deps.db.pages.pageClusters(
      deps.prisma,
      c.get("caller").workspaceId,
      status,
      idCursor(cursor),
      limit,
    );
    const items = await Promise.all(
      rows.map(async ({ row, nodes }) =>
        viewCluster(row, nodes, await deps.db.clusters.countActiveJobs(deps.pool, row.id)),
      ),
    );
    return c.json({ items, nextCursor: rows.length === limit ? (rows.at(-1)?.row.id ?? null) : null }, 200);
  });
  app.openapi(start, async (c) => {
    const { context, name } = c.req.valid("json");
    const { workspaceId, workspace } = c.get("caller");
    const shape = shapeOf(context, defaultCloud(workspace));
    const refusal = cloudOf(deps, shape).refusal(shape);
    if (refusal !== undefined) throw new Problem("not_available", refusal);
    const draft = {
      id: mintId("cluster"),
      workspaceId,
      name,
      shape,
      shapeHash: hashShape(shape),
      idleTimeoutSeconds: context.idleTimeoutSeconds,
    };
    const row = await deps.db.clusters.insertCluster(deps.pool, draft);
    deps.queue.send("provision", row.id);
    return c.json(viewCluster(row, { ready: 0, total: 0 }, 0), 202);
  });
  app.openapi(get, async (c) =>
    c.json(await readCluster(deps, c.get("caller").workspaceId, c.req.valid("param").id), 200),
  );
  app.openapi(wait, async (c) => {
    const options = { seconds: c.req.valid("query").timeout, signal: c.req.raw.signal };
    return c.json(await waitForCluster(deps, c.get("caller").workspaceId, c.req.valid("param").id, options), 200);
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
