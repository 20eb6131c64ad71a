import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { type Account, canEnter, isRoot } from "./account.ts";

/** What the directory remembers between starts. `home` is set when data had to go elsewhere. */
const State = z.object({
  home: z.string().optional(),
  port: z.int().min(1).max(65_535).optional(),
  password: z.string(),
});
export type State = z.infer<typeof State>;

const STATE_FILE = "postgres.json";
const SHARED_ROOT = "/var/lib/frazil";

/** Makes the directory. As root it must let the Postgres user pass, who may then keep the data in it; secrets in it are 0600. */
export async function makeDirectory(dir: string): Promise<string> {
  await mkdir(dir, { recursive: true, mode: isRoot() ? 0o711 : 0o700 });
  return realpath(dir);
}

export async function readState(dir: string): Promise<State | undefined> {
  try {
    return State.parse(JSON.parse(await readFile(join(dir, STATE_FILE), "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new Error(`${join(dir, STATE_FILE)} is damaged`, { cause: error });
  }
}

export async function writeState(dir: string, state: State): Promise<void> {
  const file = join(dir, STATE_FILE);
  const draft = `${file}.${process.pid}`;
  await writeFile(draft, JSON.stringify(state), { mode: 0o600 });
  await rename(draft, file);
}

export function newState(home: string | undefined): State {
  return { ...(home !== undefined && { home }), password: randomBytes(24).toString("hex") };
}

/**
 * The folder for data, log and settings: `dir` itself, or, where the Postgres user cannot enter that (it lies below /root or a
 * `mktemp -d`), a folder of its own whose name follows from `dir`, so that every start finds the same one.
 */
export async function findHome(dir: string, account: Account, state: State | undefined): Promise<string> {
  if (state?.home !== undefined) {
    const found = await stat(state.home).catch(() => undefined);
    if (!found)
      throw new Error(
        `the data of ${dir} was in ${state.home}, which is gone; remove ${join(dir, STATE_FILE)} to start with no data`,
      );
    return state.home;
  }
  if (await canEnter(account, dir)) return dir;
  const name = createHash("sha256").update(dir).digest("hex").slice(0, 16);
  for (const base of [SHARED_ROOT, join(tmpdir(), "frazil")]) {
    const home = join(base, name);
    if ((await makeRootFolder(base)) && (await makeRootFolder(home)) && (await canEnter(account, home))) return home;
  }
  throw new Error(
    `Postgres cannot run as root, and its user (uid ${account?.uid}) can enter neither ${dir}, nor ${SHARED_ROOT}, nor ${tmpdir()}`,
  );
}

/** Binaries are copied beside the homes where there are several, so that they share one copy. */
export async function findCopiesDir(account: Account, home: string): Promise<string> {
  if (!isRoot()) return home;
  return (await makeRootFolder(SHARED_ROOT)) && (await canEnter(account, SHARED_ROOT)) ? SHARED_ROOT : home;
}

/** Made by root for all to enter; a folder of that name that someone else put there is not trusted. */
async function makeRootFolder(path: string): Promise<boolean> {
  try {
    await mkdir(path, { recursive: true });
    if ((await stat(path)).uid !== process.getuid?.()) return false;
    await chmod(path, 0o755);
    return true;
  } catch {
    return false;
  }
}

/** Deletes everything that Postgres keeps for this directory, also what lies elsewhere. It must not be running. */
export async function eraseHome(dir: string): Promise<void> {
  const state = await readState(dir);
  if (state?.home !== undefined) await rm(state.home, { recursive: true, force: true });
  for (const name of ["data", "data.new", "postgres.conf", "postgres.log", "postgres.log.1", STATE_FILE]) {
    await rm(join(dir, name), { recursive: true, force: true });
  }
}
