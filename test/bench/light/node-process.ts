/** Plays many nodes in one process, and tells what they saw. */
import { playNode, type Watcher } from "./light-node.ts";
import type { FromNodes, ToNodes } from "./messages.ts";

let connected = 0;
let lost = 0;
let reconnects = 0;
let taskMs = 0;
let beatsMs: number[] = [];
let arrivals: Record<string, number> = {};

function tell(message: FromNodes): void {
  process.send?.(message);
}

const watcher: Watcher = {
  connected(nodeId, again) {
    connected += 1;
    if (again) reconnects += 1;
    tell({ kind: "connected", nodeId });
  },
  disconnected() {
    connected -= 1;
  },
  beat(ms, gone) {
    beatsMs.push(ms);
    lost += gone;
  },
  leased(jobId, atMs) {
    arrivals[jobId] ??= atMs;
  },
  taskMs: () => taskMs,
};

process.on("message", (message: ToNodes) => {
  if (message.kind === "play") void playNode(message.part, watcher);
  else if (message.kind === "take") taskMs = message.taskMs;
  else {
    tell({ kind: "seen", connected, lost, reconnects, beatsMs, arrivals });
    beatsMs = [];
    arrivals = {};
  }
});
process.on("disconnect", () => process.exit());
