import { monotonicFactory } from "ulid";
import { z } from "zod";

/** Prefixes of public ids. The rest is a ULID, so that ids sort by the time they were made (keyset pagination relies on it). */
export const ID_PREFIXES = {
  workspace: "ws",
  token: "tok",
  job: "job",
  task: "task",
  plan: "plan",
  cluster: "cl",
  node: "node",
} as const;

export type IdKind = keyof typeof ID_PREFIXES;
type Branded<K extends IdKind> = string & { readonly __id: K };
export type WorkspaceId = Branded<"workspace">;
export type TokenId = Branded<"token">;
export type JobId = Branded<"job">;
export type TaskId = Branded<"task">;
export type PlanId = Branded<"plan">;
export type ClusterId = Branded<"cluster">;
export type NodeId = Branded<"node">;

const ulid = monotonicFactory();

/** Mints an id. Ids minted by one process are strictly increasing. */
export function mintId<K extends IdKind>(kind: K): Branded<K> {
  return `${ID_PREFIXES[kind]}_${ulid().toLowerCase()}` as Branded<K>;
}

function idSchema<K extends IdKind>(kind: K) {
  const prefix = ID_PREFIXES[kind];
  return z
    .string()
    .regex(new RegExp(`^${prefix}_[0-9a-hjkmnp-tv-z]{26}$`), `expected an id such as ${prefix}_01hxyz...`)
    .transform((value) => value as Branded<K>);
}

export const WorkspaceId = idSchema("workspace");
export const TokenId = idSchema("token");
export const JobId = idSchema("job");
export const TaskId = idSchema("task");
export const PlanId = idSchema("plan");
export const ClusterId = idSchema("cluster");
export const NodeId = idSchema("node");
