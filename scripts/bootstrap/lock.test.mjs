import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, expect, it } from "vitest";
import { withLock } from "./lock.mjs";

const MODULE = fileURLToPath(new URL("./lock.mjs", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "frazil-lock-"));
afterAll(() => rmSync(folder, { recursive: true }));

it("lets one process at a time into the work", async () => {
  const lock = join(folder, "counter.lock");
  const counter = join(folder, "counter");
  writeFileSync(counter, "0");
  // Reading, waiting and writing loses counts as soon as two processes are inside at once.
  const script = `
    import { readFileSync, writeFileSync } from "node:fs";
    import { setTimeout } from "node:timers/promises";
    const { withLock } = await import(${JSON.stringify(MODULE)});
    for (let round = 0; round < 3; round += 1) {
      await withLock(async () => {
        const count = Number(readFileSync(${JSON.stringify(counter)}, "utf8"));
        await setTimeout(20);
        writeFileSync(${JSON.stringify(counter)}, String(count + 1));
      }, ${JSON.stringify(lock)});
    }`;
  const run = promisify(execFile);
  await Promise.all([1, 2, 3].map(() => run(process.execPath, ["--input-type=module", "-e", script])));
  expect(readFileSync(counter, "utf8")).toBe("9");
  expect(existsSync(lock)).toBe(false);
});

it.each(["999999999 1", `${process.pid} 1`])("takes over the lock of a process that is gone (%s)", async (owner) => {
  const lock = join(folder, "dead.lock");
  writeFileSync(lock, process.platform === "linux" ? owner : "999999999");
  expect(await withLock(async () => "done", lock)).toBe("done");
});

it("gives the lock up when the work fails", async () => {
  const lock = join(folder, "failing.lock");
  await expect(withLock(() => Promise.reject(new Error("no network")), lock)).rejects.toThrow("no network");
  expect(existsSync(lock)).toBe(false);
});
