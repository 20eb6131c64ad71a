import { randomBytes } from "node:crypto";
import { mkdir, open, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { z } from "zod";
import { parseJson } from "./json.ts";
import { readProcess } from "./process-list.ts";

/** The holder touches its lock this often; on another machine's lock (a shared disk) that is the only sign of life. */
const TOUCH_INTERVAL_MS = 5_000;
const STALE_AFTER_MS = 30_000;
const POLL_MS = 100;

const Holder = z.object({ host: z.string(), pid: z.int(), startTime: z.string() });

/**
 * Runs `work` while no other process that asks for the same lock does. It saves work and does not guard correctness: when a holder is taken for
 * dead although it is not, both run. Throws when the lock was not had within `waitMs`.
 */
export async function withFileLock<T>(path: string, waitMs: number, work: () => Promise<T>): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  const deadline = Date.now() + waitMs;
  while (!(await tryLock(path))) {
    if (Date.now() >= deadline) throw new Error(`another process has held ${path} for more than ${waitMs / 1000} s`);
    if (await isStale(path)) await removeStale(path);
    else await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  const touch = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), TOUCH_INTERVAL_MS);
  touch.unref();
  try {
    return await work();
  } finally {
    clearInterval(touch);
    await rm(path, { force: true });
  }
}

async function tryLock(path: string): Promise<boolean> {
  const handle = await open(path, "wx").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "EEXIST") return undefined;
    throw error;
  });
  if (handle === undefined) return false;
  try {
    await handle.writeFile(
      JSON.stringify({ host: hostname(), pid: process.pid, startTime: readProcess(process.pid)?.startTime ?? "" }),
    );
  } finally {
    await handle.close();
  }
  return true;
}

async function isStale(path: string): Promise<boolean> {
  const touched = await stat(path).catch(() => undefined);
  if (touched === undefined) return false;
  if (Date.now() - touched.mtimeMs > STALE_AFTER_MS) return true;
  const text = await readFile(path, "utf8").catch(() => "");
  // Not a holder: it is just being written, or its writer died in between, which its age will tell.
  const holder = Holder.safeParse(parseJson(text)).data;
  return holder !== undefined && holder.host === hostname() && readProcess(holder.pid)?.startTime !== holder.startTime;
}

/** Renamed before it is removed, so that of several that found it stale only one takes it away. */
async function removeStale(path: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString("hex")}`;
  await rename(path, aside).catch(() => {});
  await rm(aside, { force: true });
}
