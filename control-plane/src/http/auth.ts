import { Problem } from "@frazil/contracts";
import { createMiddleware } from "hono/factory";
import { hashToken, sameHash, tokenPrefix } from "../domain/tokens.ts";
import type { ConnectedNode, Deps, WorkspaceRow } from "../flow/deps.ts";

export interface Caller {
  readonly workspaceId: string;
  readonly user: string;
  /** As it was at most a few seconds ago. */
  readonly workspace: WorkspaceRow;
}
export interface AppEnv {
  Variables: { caller: Caller; node: ConnectedNode };
}

/** A token that was good is taken as good for so long; a revoked one works that much longer at most. */
const KEPT_MS = 5_000;
const KEPT_MAX = 10_000;
const REFUSAL =
  "Send a valid token as `Authorization: Bearer frz_...`; `pc login` or the one who runs this installation gives you one.";

/** Users' tokens: sets `caller`, or answers 401. */
export function requireToken(deps: Pick<Deps, "db" | "pool">) {
  const kept = new Map<string, { caller: Caller; until: number }>();
  return createMiddleware<AppEnv>(async (c, next) => {
    const token = bearerOf(c.req.header("authorization"));
    const hash = token === undefined ? "" : hashToken(token).toString("base64");
    const known = kept.get(hash);
    if (known !== undefined && known.until > performance.now()) {
      c.set("caller", known.caller);
      return next();
    }
    const caller = token === undefined ? undefined : await findCaller(deps, token);
    if (caller === undefined) throw new Problem("unauthenticated", REFUSAL);
    if (kept.size >= KEPT_MAX) kept.clear();
    kept.set(hash, { caller, until: performance.now() + KEPT_MS });
    c.set("caller", caller);
    return next();
  });
}

async function findCaller(deps: Pick<Deps, "db" | "pool">, token: string): Promise<Caller | undefined> {
  const prefix = tokenPrefix(token);
  if (prefix === undefined) return undefined;
  const row = await deps.db.tokens.findToken(deps.pool, prefix);
  if (row === undefined || row.expired || !sameHash(row.hash, hashToken(token))) return undefined;
  const workspace = await deps.db.tokens.loadWorkspace(deps.pool, row.workspace_id);
  return workspace === undefined ? undefined : { workspaceId: workspace.id, user: row.user_name, workspace };
}

/** Nodes' tokens: sets `node`, or answers 401. */
export function requireNode(deps: Pick<Deps, "db" | "pool">) {
  return createMiddleware<AppEnv>(async (c, next) => {
    const node = await findNode(deps, c.req.header("authorization"));
    if (node === undefined) throw new Problem("unauthenticated", "This node's token is not, or no longer, valid.");
    c.set("node", node);
    return next();
  });
}

export async function findNode(
  deps: Pick<Deps, "db" | "pool">,
  authorization: string | undefined,
): Promise<ConnectedNode | undefined> {
  const token = bearerOf(authorization);
  return token === undefined ? undefined : deps.db.clusters.findNodeByToken(deps.pool, hashToken(token));
}

function bearerOf(header: string | undefined): string | undefined {
  const match = /^Bearer ([\x21-\x7e]{1,512})$/i.exec(header ?? "");
  return match?.[1];
}
