import { ChangeWorkspace, Problem, Workspace } from "@frazil/contracts";
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "./auth.ts";
import { jsonContent, newApp, problems, security } from "./openapi.ts";
import type { HttpDeps } from "./reads.ts";

const show = createRoute({
  method: "get",
  path: "/v1/workspace",
  summary: "The workspace, its limit on concurrent tasks, and how much of that is taken",
  security,
  responses: { 200: jsonContent(Workspace, "The workspace"), ...problems() },
});
const change = createRoute({
  method: "patch",
  path: "/v1/workspace",
  summary: "Set the workspace's limit on concurrent tasks",
  security,
  request: { body: { required: true, content: { "application/json": { schema: ChangeWorkspace } } } },
  responses: { 200: jsonContent(Workspace, "The workspace as it is now"), ...problems(400, 408, 413) },
});

export function workspaceRoutes(deps: HttpDeps): OpenAPIHono<AppEnv> {
  const app = newApp();
  app.openapi(show, async (c) => c.json(await read(deps, c.get("caller").workspaceId), 200));
  app.openapi(change, async (c) => {
    const { workspaceId } = c.get("caller");
    await deps.db.tokens.limitWorkspace(deps.pool, workspaceId, c.req.valid("json").tasksRunningMax);
    return c.json(await read(deps, workspaceId), 200);
  });
  return app;
}

async function read(deps: HttpDeps, workspaceId: string): Promise<Workspace> {
  const row = await deps.db.tokens.loadWorkspaceUse(deps.pool, workspaceId);
  if (row === undefined) throw new Problem("unauthenticated", "This token's workspace is gone.");
  return { id: row.id, name: row.name, tasksRunningMax: row.tasks_running_max, tasksRunning: row.tasks_running };
}
