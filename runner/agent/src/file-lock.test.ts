import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { withFileLock } from "./file-lock.ts";
import { readProcess } from "./process-list.ts";

let root: string;
let path: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "frazil-lock-"));
  path = join(root, "the.lock");
});
afterEach(() => rmSync(root, { recursive: true }));

const holder = (pid: number, startTime: string, host = hostname()) => JSON.stringify({ host, pid, startTime });

test("one after the other has it, also when the work of one fails", async () => {
  let inside = 0;
  let most = 0;
  const work = async () => {
    inside += 1;
    most = Math.max(most, inside);
    await new Promise((resolve) => setImmediate(resolve));
    inside -= 1;
    throw new Error("no");
  };
  const all = await Promise.allSettled([1, 2, 3].map(() => withFileLock(path, 10_000, work)));
  expect(all.map((one) => one.status)).toEqual(["rejected", "rejected", "rejected"]);
  expect(most).toBe(1);
  expect(await withFileLock(path, 1_000, async () => "free")).toBe("free");
});

test("the lock of a process that is gone is taken over", async () => {
  const gone = spawnSync(process.execPath, ["--version"]).pid;
  writeFileSync(path, holder(gone, "1"));
  expect(await withFileLock(path, 1_000, async () => "mine")).toBe("mine");
});

test("the lock of a living process is waited for, up to a bound", async () => {
  writeFileSync(path, holder(process.pid, readProcess(process.pid)?.startTime ?? ""));
  await expect(withFileLock(path, 150, async () => "mine")).rejects.toThrow("has held");
});

test("the lock of another machine is taken over only when it was not touched for long", async () => {
  writeFileSync(path, holder(1, "1", "elsewhere"));
  await expect(withFileLock(path, 150, async () => "mine")).rejects.toThrow("has held");
  const longAgo = new Date(Date.now() - 60_000);
  utimesSync(path, longAgo, longAgo);
  expect(await withFileLock(path, 1_000, async () => "mine")).toBe("mine");
});
