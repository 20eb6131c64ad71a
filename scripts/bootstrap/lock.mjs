import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { STATE_DIR } from "./paths.mjs";

const LOCK_FILE = join(STATE_DIR, "bootstrap.lock");
const WAIT_LIMIT_MS = 10 * 60_000;
const POLL_MS = 200;

/** Runs `work` while no other process of this clone does the same. Waits at most 10 minutes; a dead owner's lock is taken over. */
export async function withBootstrapLock(work) {
  mkdirSync(STATE_DIR, { recursive: true });
  await acquire();
  const release = () => rmSync(LOCK_FILE, { force: true });
  process.once("exit", release);
  try {
    return await work();
  } finally {
    process.off("exit", release);
    release();
  }
}

async function acquire() {
  const deadlineAt = Date.now() + WAIT_LIMIT_MS;
  let announced = false;
  while (!tryAcquire()) {
    const owner = readOwner();
    if (owner !== undefined && !isAlive(owner)) {
      removeLockOf(owner);
      continue;
    }
    if (Date.now() > deadlineAt) {
      throw new Error(
        `process ${owner} still holds ${LOCK_FILE} after 10 minutes; end it, or delete the file if it is not a setup of this clone`,
      );
    }
    if (!announced) console.log(`waiting for the setup that process ${owner} is running`);
    announced = true;
    await delay(POLL_MS);
  }
}

/** The file appears together with its content, so that nobody ever reads a lock without an owner. */
function tryAcquire() {
  const draft = `${LOCK_FILE}.${process.pid}`;
  writeFileSync(draft, String(process.pid));
  try {
    linkSync(draft, LOCK_FILE);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(draft, { force: true });
  }
}

function readOwner() {
  try {
    return Number(readFileSync(LOCK_FILE, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
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
function removeLockOf(owner) {
  const aside = `${LOCK_FILE}.stale.${process.pid}`;
  try {
    renameSync(LOCK_FILE, aside);
    if (Number(readFileSync(aside, "utf8")) !== owner) linkSync(aside, LOCK_FILE);
  } catch (error) {
    if (error.code !== "ENOENT" && error.code !== "EEXIST") throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}
