import type { AttemptRef } from "@frazil/contracts";
import type { Logger } from "pino";
import type { Config } from "./config.ts";
import type { Connection } from "./connection.ts";
import type { ControlPlaneApi } from "./control-plane-api.ts";
import type { NodeSize } from "./engines.ts";
import type { Environments } from "./environments.ts";
import { attemptKey } from "./lease-queue.ts";
import type { FoundPython } from "./pythons.ts";
import type { ActiveRun, RunDeps, TaskState } from "./run-task.ts";

export interface HeldTask {
  readonly run: ActiveRun;
  readonly task: TaskState;
}

/** Everything that this node knows and holds. Made in `agent.ts`; the functions beside it act on it. */
export interface Node {
  readonly config: Config;
  readonly log: Logger;
  readonly api: ControlPlaneApi;
  readonly environments: Environments;
  readonly pythons: readonly FoundPython[];
  readonly runDeps: RunDeps;
  readonly connection: Pick<Connection, "send" | "isUp" | "close">;
  /** As `welcome` said. */
  readonly size: NodeSize;
  /** Attempts without an outcome in the outbox, by attempt. */
  readonly held: Map<string, HeldTask>;
  /** Leases whose content is being fetched. */
  readonly fetching: Map<string, AttemptRef>;
  /** In order of arrival. */
  readonly waiting: Set<ActiveRun>;
  readonly running: Set<ActiveRun>;
  /** Ended jobs whose leftovers in storage this node is to remove, in order of arrival, the one under way included; with the order's token. */
  readonly sweeps: Map<string, string>;
  busySlots: number;
  welcomed: boolean;
  draining: boolean;
  measuredAt: number;
  /** Sets the end of the agent going. */
  onDrain(): void;
}

/** Attempts that this node still answers for, those whose outcome waits to be acknowledged included. */
export function holding(node: Node): AttemptRef[] {
  const refs = new Map<string, AttemptRef>(node.fetching);
  for (const [key, { task }] of node.held) refs.set(key, { taskId: task.ref.taskId, attempt: task.ref.attempt });
  for (const ref of node.runDeps.outbox.holding()) refs.set(attemptKey(ref), ref);
  return [...refs.values()];
}
