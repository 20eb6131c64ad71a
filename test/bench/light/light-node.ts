import { setTimeout as delay } from "node:timers/promises";
import type { Outcome } from "@frazil/contracts";
import { joinNode } from "../../harness/fake-node.ts";
import { type HeldTask, startLightNode } from "../../harness/light-node.ts";
import { nowMs, type Part } from "./messages.ts";

const RECONNECT_MS = 100;
const JOIN_ATTEMPTS_MAX = 50;
/** A plan with this in it fails. The rest is the message, of which there are few among many. */
const FAILS = / fails (\d)/;
/** As large as the first rows of a small result in Arrow IPC. */
const HEAD = Buffer.alloc(400, 7).toString("base64");

/** What nodes of one process saw, together. */
export interface Watcher {
  connected(nodeId: string, again: boolean): void;
  disconnected(): void;
  beat(ms: number, lost: number): void;
  leased(jobId: string, atMs: number): void;
  /** How long a task takes now. */
  taskMs(): number;
}

/** A node that begins what it is given at once, whatever its slots. */
export async function playNode(part: Part, watcher: Watcher): Promise<void> {
  const { nodeToken, nodeId } = await join(part);
  startLightNode({
    addresses: part.addresses,
    nodeId,
    nodeToken,
    slots: Number.POSITIVE_INFINITY,
    taskMs: watcher.taskMs,
    outcome,
    onChange(what, { jobId }) {
      if (what === "leased") watcher.leased(jobId, nowMs());
    },
    onConnection(what) {
      if (what === "down") watcher.disconnected();
      else watcher.connected(nodeId, what === "up again");
    },
    onBeat: watcher.beat,
  });
}

async function join(part: Part) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await joinNode(part.order);
    } catch (error) {
      if (attempt === JOIN_ATTEMPTS_MAX) throw error;
      await delay(RECONNECT_MS);
    }
  }
}

function outcome({ ref, run }: HeldTask): Outcome {
  const fails = FAILS.exec(Buffer.from(run.plan ?? "", "base64").toString("latin1"));
  if (fails !== null) {
    const message = `column ${fails[1]} is not there`;
    return { kind: "failed", error: { code: "query_failed", message, type: "ColumnNotFoundError" }, retryable: false };
  }
  const result = {
    locations: [`/results/${ref.taskId}/${ref.attempt}.arrow`],
    schema: [{ name: "n", dtype: "Int64" }],
    rows: 1,
    bytes: 400,
    warnings: [],
  };
  return { kind: "succeeded", result, head: HEAD };
}
