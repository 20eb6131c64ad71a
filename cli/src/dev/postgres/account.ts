import { execFile } from "node:child_process";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The user that Postgres runs as. Undefined means: as this process, which is then not root. */
export type Account = { uid: number; gid: number } | undefined;

/** Users that exist on most systems and own nothing of value; Postgres refuses to run as root. */
const CANDIDATES = ["postgres", "nobody"];

export function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** As root, the account is the owner of the data that is already there, else `postgres` or `nobody`. */
export async function chooseAccount(dataDir: string): Promise<Account> {
  const owner = await stat(dataDir).catch(() => undefined);
  if (!isRoot()) {
    if (owner && owner.uid !== process.getuid?.()) {
      throw new Error(
        `${dataDir} belongs to another user (uid ${owner.uid}); start as that user, or choose another directory`,
      );
    }
    return undefined;
  }
  if (owner && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };
  for (const name of CANDIDATES) {
    const account = await lookUp(name);
    if (account) return account;
  }
  throw new Error(
    `Postgres refuses to run as root, and none of the users ${CANDIDATES.join(", ")} exists; start as an ordinary user`,
  );
}

async function lookUp(name: string): Promise<Account> {
  try {
    const [uid, gid] = await Promise.all([run("id", ["-u", name]), run("id", ["-g", name])]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/** Options for `spawn` that make a child run as the account, from a folder that every user can enter. */
export function spawnOptionsFor(account: Account): { uid?: number; gid?: number; cwd: string } {
  return { ...account, cwd: "/" };
}

/** Asks the system itself whether the account can enter a folder: only that sees access lists, mounts and parent folders. */
export function canEnter(account: Account, folder: string): Promise<boolean> {
  return passes(account, 'test -d "$1" && test -x "$1"', folder);
}

/** Whether the account can run the binaries in a Postgres folder and read the files beside them. */
export async function canRunBinaries(account: Account, folder: string): Promise<boolean> {
  const tests =
    'test -x "$1/bin/postgres" && test -r "$1/share/postgresql/postgres.bki" && test -r "$1/lib/libpq.so.5" -o -r "$1/lib/libpq.5.dylib"';
  return passes(account, tests, folder);
}

async function passes(account: Account, script: string, path: string): Promise<boolean> {
  try {
    await run("/bin/sh", ["-c", script, "sh", join(path)], spawnOptionsFor(account));
    return true;
  } catch {
    return false;
  }
}
