import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { STATE_DIR } from "./paths.mjs";

const LOCK_FILE = join(STATE_DIR, "bootstrap.lock");
const WAIT_LIMIT_MS = 10 * 60_000;
const POLL_MS = 200;

/** Runs `work` while no other process does the same. Waits at most 10 minutes; a dead owner's lock is taken over. */
export async function withLock(work, file = LOCK_FILE) {
  mkdirSync(dirname(file), { recursive: true });
  await acquire(file);
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}

async function acquire(file) {
  const deadlineAt = Date.now() + WAIT_LIMIT_MS;
  let announced = false;
  while (!tryAcquire(file)) {
    const owner = readIfExists(file);
    if (owner === undefined) continue;
    if (describeProcess(Number.parseInt(owner, 10)) !== owner) {
      discard(file, owner);
      continue;
    }
    if (Date.now() > deadlineAt) throw new Error(`process ${owner} still holds ${file} after 10 minutes`);
    if (!announced) console.log(`waiting for the setup that process ${Number.parseInt(owner, 10)} is running`);
    announced = true;
    await delay(POLL_MS);
  }
}

/** The file appears together with its content, so that nobody ever reads a lock without an owner. */
function tryAcquire(file) {
  const draft = `${file}.${process.pid}`;
  writeFileSync(draft, describeProcess(process.pid));
  try {
    linkSync(draft, file);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

function readIfExists(file) {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Id and, where /proc tells it, start of a living process: ids come back. Empty when there is no such process. */
function describeProcess(pid) {
  if (!isAlive(pid)) return "";
  if (process.platform !== "linux") return String(pid);
  const stat = readIfExists(`/proc/${pid}/stat`) ?? "";
  // The command's name, in parentheses, may hold spaces; the start is the 22nd field, the 20th after it.
  return `${pid} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]}`;
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** Two processes may both see the dead owner: the one that moved away a live lock by mistake puts it back. */
function discard(file, owner) {
  const aside = `${file}.dead.${process.pid}`;
  try {
    renameSync(file, aside);
    if (readFileSync(aside, "utf8") !== owner) linkSync(aside, file);
  } catch (error) {
    if (error.code !== "ENOENT" && error.code !== "EEXIST") throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}
