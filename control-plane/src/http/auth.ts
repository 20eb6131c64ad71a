import { Problem } from "@frazil/contracts";
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import { hashToken, sameHash, tokenPrefix } from "../domain/tokens.ts";
import { type ConnectedNode, type Deps, topics, type WorkspaceRow } from "../flow/deps.ts";

export interface Caller {
  readonly workspaceId: string;
  readonly user: string;
  /** As it was at most a few seconds ago. */
  readonly workspace: WorkspaceRow;
  readonly tokenPrefix: string;
  /** On this process's own clock. */
  readonly expiresAtMs: number;
}
export interface AppEnv {
  Variables: { caller: Caller; node: ConnectedNode };
}
type AuthDeps = Pick<Deps, "db" | "pool" | "changes">;

/** A token that was good is taken as good for so long, unless the database says before that it was changed. */
const KEPT_MS = 5_000;
const KEPT_MAX = 10_000;
/** What a timer takes; no answer goes on for so long. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;
const REFUSAL =
  "Send a valid token as `Authorization: Bearer frz_...`; `pc login` or the one who runs this installation gives you one.";

/** Users' tokens: sets `caller`, or answers 401. */
export function requireToken(deps: AuthDeps) {
  let kept: ReturnType<typeof keepCallers> | undefined;
  return createMiddleware<AppEnv>(async (c, next) => {
    const token = bearerOf(c.req.header("authorization"));
    if (token === undefined) throw new Problem("unauthenticated", REFUSAL);
    kept ??= keepCallers(deps.changes);
    const caller = await kept.find(hashToken(token).toString("base64"), () => findCaller(deps, token));
    if (caller === undefined) throw new Problem("unauthenticated", REFUSAL);
    c.set("caller", caller);
    return next();
  });
}

/** Keeps who showed which token, for as long as changes of tokens are heard of. */
function keepCallers(changes: AuthDeps["changes"]) {
  const kept = new Map<string, { caller: Caller; untilMs: number }>();
  let changed = 0;
  const forget = () => {
    changed += 1;
    kept.clear();
  };
  changes.onGap(forget);
  changes.onAny((topic) => {
    if (topic.startsWith(topics.token(""))) forget();
  });
  return {
    async find(hash: string, look: () => Promise<Caller | undefined>): Promise<Caller | undefined> {
      const known = kept.get(hash);
      if (known !== undefined && known.untilMs > performance.now() && changes.isLive()) return known.caller;
      const before = changed;
      const caller = await look();
      // What changed while we looked may be this very token.
      if (caller === undefined || before !== changed) return caller;
      if (kept.size >= KEPT_MAX) kept.clear();
      kept.set(hash, { caller, untilMs: Math.min(performance.now() + KEPT_MS, caller.expiresAtMs) });
      return caller;
    },
  };
}

async function findCaller(deps: Pick<Deps, "db" | "pool">, token: string): Promise<Caller | undefined> {
  const prefix = tokenPrefix(token);
  if (prefix === undefined) return undefined;
  const row = await deps.db.tokens.findToken(deps.pool, prefix);
  if (row === undefined || row.expired || !sameHash(row.hash, hashToken(token))) return undefined;
  const workspace = await deps.db.tokens.loadWorkspace(deps.pool, row.workspace_id);
  if (workspace === undefined) return undefined;
  const expiresAtMs = performance.now() + (row.expires_in_ms ?? Number.POSITIVE_INFINITY);
  return { workspaceId: workspace.id, user: row.user_name, workspace, tokenPrefix: prefix, expiresAtMs };
}

/** Whether the token that a request came with is good still: for answers that go on for long. */
export async function isStillGood(deps: Pick<Deps, "db" | "pool">, caller: Caller): Promise<boolean> {
  const row = await deps.db.tokens.findToken(deps.pool, caller.tokenPrefix);
  return row !== undefined && !row.expired && row.workspace_id === caller.workspaceId;
}

/** Calls `work` with a signal that aborts when the caller goes away, or when its token is no longer good. */
export async function whileGood<T>(
  deps: AuthDeps,
  c: Context<AppEnv>,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const caller = c.get("caller");
  const stop = new AbortController();
  const ended = async () => {
    if (!(await isStillGood(deps, caller).catch(() => true))) stop.abort();
  };
  const forget = deps.changes.listen(topics.token(caller.tokenPrefix), () => void ended());
  const leftMs = caller.expiresAtMs - performance.now();
  const timer = leftMs < TIMEOUT_MS_MAX ? setTimeout(() => stop.abort(), Math.max(0, leftMs)) : undefined;
  try {
    return await work(AbortSignal.any([c.req.raw.signal, stop.signal]));
  } finally {
    clearTimeout(timer);
    forget();
  }
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
