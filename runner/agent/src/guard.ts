import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const END_ORPHANS_MAIN = fileURLToPath(
  import.meta.url.endsWith(".mjs")
    ? new URL("./end-orphans.mjs", import.meta.url)
    : new URL("./end-orphans-main.ts", import.meta.url),
);

export interface Guard {
  /** The agent has ended its engines by itself. */
  stop(): void;
}

/**
 * A shell that waits for the end of its input, which comes with the end of the agent however it ends, and then ends what the agent left: engines
 * end by themselves when their agent is gone, but processes that a user's code started do not. In a session of its own, so that what ends the
 * agent's process group does not end it too.
 */
export function startGuard(nodeDir: string): Guard {
  const child = spawn("/bin/sh", ["-c", 'read _; exec "$0" "$1" "$2"', process.execPath, END_ORPHANS_MAIN, nodeDir], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  // Without a guard the next agent of this node does its work.
  child.on("error", () => {});
  child.unref();
  return { stop: () => void child.kill("SIGKILL") };
}
