import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";
import { ComputeContext, mintId } from "@frazil/contracts";
import type { Sql } from "./db/pool.ts";
import { ensureWorkspace, findToken, insertToken } from "./db/tokens.ts";
import { hashToken, mintToken, sameHash, tokenPrefix } from "./domain/tokens.ts";

/** Part of this machine's memory that the default context of a local installation takes; the rest is for Postgres, this process and the user. */
const MEMORY_SHARE = 0.75;
const GIB = 1024 ** 3;

export interface Bootstrap {
  readonly workspace: string;
  readonly user: string;
  /** A token given out before: kept if it is still good. */
  readonly token: string | undefined;
}

/** Makes the first workspace and a token for it. Repeating it changes nothing, and gives the same token back as long as that is valid. */
export async function bootstrap(
  sql: Sql,
  home: string,
  wanted: Bootstrap,
): Promise<{ workspaceId: string; token: string }> {
  const workspace = await ensureWorkspace(sql, {
    id: mintId("workspace"),
    name: wanted.workspace,
    default_context: ComputeContext.parse({
      cloud: "local",
      cpus: availableParallelism(),
      memoryGiB: Math.max(1, Math.floor((totalmem() / GIB) * MEMORY_SHARE)),
    }),
    results_location: join(home, "results"),
    keep_heads: true,
  });
  if (wanted.token !== undefined && (await isGood(sql, workspace.id, wanted.token)))
    return { workspaceId: workspace.id, token: wanted.token };
  const { token, prefix, hash } = mintToken();
  await insertToken(sql, {
    id: mintId("token"),
    workspaceId: workspace.id,
    userName: wanted.user,
    label: "first token",
    prefix,
    hash,
  });
  return { workspaceId: workspace.id, token };
}

async function isGood(sql: Sql, workspaceId: string, token: string): Promise<boolean> {
  const prefix = tokenPrefix(token);
  const row = prefix === undefined ? undefined : await findToken(sql, prefix);
  return row !== undefined && !row.expired && row.workspace_id === workspaceId && sameHash(row.hash, hashToken(token));
}
