import { Problem } from "@frazil/contracts";
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { NodeDeps } from "../flow/node-messages.ts";
import { VERSION } from "../version.ts";
import { agentRoutes } from "./agent.ts";
import { type AppEnv, requireToken } from "./auth.ts";
import { boundedBody } from "./body.ts";
import { clusterRoutes } from "./clusters.ts";
import { eventRoutes } from "./events.ts";
import { jobRoutes } from "./jobs.ts";
import type { Metrics } from "./metrics.ts";
import { newApp, registerProblem } from "./openapi.ts";
import { answerProblem } from "./problems.ts";
import type { HttpDeps } from "./reads.ts";
import { answerStalls } from "./stall.ts";
import { workspaceRoutes } from "./workspace.ts";

/** Of requests that are not submissions; those have limits of their own. */
const BODY_BYTES_MAX = 1024 * 1024;
const READY_TIMEOUT_MS = 3_000;

export interface AppDeps extends HttpDeps, NodeDeps {
  readonly metrics: Metrics;
}

export function makeApp(deps: AppDeps): OpenAPIHono<AppEnv> {
  const app = newApp();
  app.onError((error, c) => answerProblem(c, error, deps.log));
  app.notFound((c) => answerProblem(c, nothingThere(app, c), deps.log));
  app.use(async (c, next) => {
    const startedAt = performance.now();
    await next();
    deps.metrics.observeRequest(c.req.method, c.res.status, performance.now() - startedAt);
  });
  app.get("/healthz", (c) => c.json({ status: "alive", version: VERSION }));
  app.get("/openapi.json", (c) => c.json(describeApi(app)));
  app.use(answerStalls(deps));
  health(app, deps);
  app.route("/", agentRoutes(deps));
  app.use("/v1/*", requireToken(deps));
  const bounded = boundedBody(deps, { bytesMax: BODY_BYTES_MAX, advice: "send less" });
  app.post("/v1/clusters", bounded);
  app.patch("/v1/workspace", bounded);
  app.route("/", jobRoutes(deps));
  app.route("/", eventRoutes(deps));
  app.route("/", clusterRoutes(deps));
  app.route("/", workspaceRoutes(deps));
  registerProblem(app);
  app.openAPIRegistry.registerComponent("securitySchemes", "token", {
    type: "http",
    scheme: "bearer",
    description: "A token such as frz_...",
  });
  return app;
}

/** An address that takes other methods says which. */
function nothingThere(app: OpenAPIHono<AppEnv>, c: Context<AppEnv>): Problem {
  const { path } = c.req;
  const methods = app.routes.flatMap((route) => {
    const pattern = new RegExp(`^${route.path.replace(/:\w+/g, "[^/]+")}$`);
    return route.method !== "ALL" && pattern.test(path) ? [route.method] : [];
  });
  if (methods.length === 0) return new Problem("not_found", `There is nothing at ${path}.`);
  const allowed = [...new Set(methods)].sort().join(", ");
  c.header("allow", allowed);
  return new Problem("method_not_allowed", `${path} takes ${allowed}.`);
}

/** The OpenAPI document of the public routes. */
export function describeApi(app: OpenAPIHono<AppEnv>) {
  return app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: { title: "Frazil", version: VERSION, description: "Runs Polars queries on machines in your own cloud." },
  });
}

function health(app: OpenAPIHono<AppEnv>, deps: AppDeps): void {
  app.get("/readyz", async (c) => {
    const ping = deps.pool.query({ text: "SELECT 1" }).then(() => true);
    const late = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), READY_TIMEOUT_MS).unref());
    if (!(await Promise.race([ping.catch(() => false), late])))
      throw new Problem("unavailable", "The database does not answer.");
    return c.json({ status: "ready" });
  });
  app.get("/metrics", async (c) =>
    c.body(await deps.metrics.render(), 200, { "content-type": deps.metrics.contentType }),
  );
}
