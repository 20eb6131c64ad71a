import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, it } from "vitest";
import { waitUntil } from "../harness/wait-until.ts";
import { startCpuMeter, treeOf } from "./processes.ts";

const BUSY_MS = 200;
/** Burns processor time, says so, and ends at the next line. Its shell stays, and has waited for it. */
const BUSY = `const start = process.cpuUsage(); while (process.cpuUsage(start).user < ${BUSY_MS * 1_000});
  console.log("done"); process.stdin.once("data", () => process.exit())`;

it.runIf(process.platform === "linux")(
  "counts no time that a process took before, when it ends while the meter runs",
  async () => {
    const shell = spawn("sh", ["-c", '"$0" -e "$1"; echo over; sleep 60', process.execPath, BUSY], { detached: true });
    const pid = shell.pid as number;
    try {
      await once(shell.stdout, "data");
      const [busy] = treeOf(pid).filter((one) => one.pid !== pid);
      expect(busy?.cpuSeconds).toBeGreaterThanOrEqual(BUSY_MS / 1_000);
      const meter = startCpuMeter(pid);
      shell.stdin.write("\n");
      await once(shell.stdout, "data");
      await waitUntil("it has ended", async () => treeOf(pid).every((one) => one.pid !== busy?.pid));
      const { other } = meter.read();
      expect(other).toBeGreaterThanOrEqual(0);
      expect(other).toBeLessThan(BUSY_MS / 1_000 / 2);
    } finally {
      process.kill(-pid, "SIGKILL");
    }
  },
);
