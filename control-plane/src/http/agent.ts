import {
  FromNode,
  JobId,
  JoinRequest,
  LOG_BATCH_LINES_MAX,
  NodeLogLine,
  PlanId,
  Problem,
  type ToNode,
} from "@frazil/contracts";
import { type Context, Hono } from "hono";
import { z } from "zod";
import { hashToken, mintNodeToken } from "../domain/tokens.ts";
import { topics } from "../flow/deps.ts";
import { handleNodeMessage, type NodeDeps } from "../flow/node-messages.ts";
import { describeSweep } from "../flow/sweep.ts";
import { type AppEnv, requireNode } from "./auth.ts";
import { type BodyLimits, bodyOf, parseJsonOfNode, readBytes, textOf } from "./body.ts";
import { parse } from "./submission.ts";

const BODY_BYTES_MAX = 64 * 1024 * 1024;
/** Of what anybody may send. */
const JOIN_BYTES_MAX = 16 * 1024;
const Messages = z.object({ messages: z.array(FromNode).max(1_000) });
const LeaseQuery = z.object({
  tasks: z
    .array(z.object({ taskId: z.string(), attempt: z.number().int() }))
    .min(1)
    .max(2_000),
});
const LogBatch = z.object({ lines: z.array(NodeLogLine).max(LOG_BATCH_LINES_MAX) });

/** What agents call beside their connection. Not part of the public API. */
export function agentRoutes(deps: NodeDeps): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  const readBody = <S extends z.ZodType>(c: Context<AppEnv>, schema: S) =>
    readJson(c, schema, { bytesMax: BODY_BYTES_MAX, idleMs: deps.settings.bodyIdleMs, advice: "send it in parts" });
  app.post("/v1/agent/join", async (c) => {
    const limits = { bytesMax: JOIN_BYTES_MAX, idleMs: deps.settings.bodyIdleMs, advice: "send less" };
    const request = await readJson(c, JoinRequest, limits);
    const minted = mintNodeToken("node");
    const joined = await deps.db.clusters.joinNode(deps.pool, hashToken(request.joinToken), minted.hash, request);
    if (joined === undefined) throw new Problem("unauthenticated", "This join token is not valid, or was used.");
    deps.log.info({ node: joined.id, cluster: joined.cluster_id, pid: request.pid }, "node joined");
    return c.json({ nodeId: joined.id, nodeToken: minted.token });
  });
  const node = requireNode(deps);
  app.post("/v1/agent/messages", node, async (c) => {
    const { messages } = await readBody(c, Messages);
    const answers: ToNode[] = [];
    for (const message of messages) answers.push(...(await handleNodeMessage(deps, c.get("node"), message)));
    return c.json({ messages: answers });
  });
  app.post("/v1/agent/leases", node, async (c) => {
    const { tasks } = await readBody(c, LeaseQuery);
    return c.json({ batches: await deps.dispatcher.describe(c.get("node"), tasks) });
  });
  app.get("/v1/agent/plans/:id", node, async (c) => {
    const { workspace_id: workspaceId } = c.get("node");
    const planId = PlanId.safeParse(c.req.param("id"));
    const sealed = planId.success ? await deps.db.plans.loadSealedPlan(deps.pool, workspaceId, planId.data) : undefined;
    if (sealed === undefined) throw new Problem("not_found", "There is no such plan in this node's workspace.");
    return c.body(new Uint8Array(deps.sealer.open(sealed, workspaceId)), 200, {
      "content-type": "application/octet-stream",
    });
  });
  app.get("/v1/agent/sweeps/:id", node, async (c) => {
    const jobId = JobId.safeParse(c.req.param("id"));
    const after = c.req.query("after") ?? null;
    const order = jobId.success ? await describeSweep(deps, c.get("node").workspace_id, jobId.data, after) : undefined;
    if (order === undefined) throw new Problem("not_found", "There is no such ended job in this node's workspace.");
    return c.json(order);
  });
  app.post("/v1/agent/logs", node, async (c) => {
    const { lines } = await readBody(c, LogBatch);
    for (const jobId of await deps.db.logs.appendLogs(deps.pool, c.get("node").id, lines))
      deps.changes.notify(topics.job(jobId));
    return c.body(null, 204);
  });
  return app;
}

async function readJson<S extends z.ZodType>(c: Context<AppEnv>, schema: S, limits: BodyLimits): Promise<z.output<S>> {
  const text = textOf(await readBytes(bodyOf(c), limits), "The body");
  return parse(schema, parseJsonOfNode(text, "The body"), "The body");
}
