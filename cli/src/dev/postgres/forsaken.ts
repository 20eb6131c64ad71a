import { readdir, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, sep } from "node:path";
import { claim } from "./claim.ts";
import { stopLeftover } from "./postmaster.ts";

/** Says which directory the data that had to go elsewhere was made for. */
const MADE_FOR_FILE = "made-for";

export async function noteMadeFor(home: string, dir: string): Promise<void> {
  await writeFile(join(home, MADE_FOR_FILE), dir);
}

/**
 * Removes data beside `home` that was made for temporary directories which are gone: nobody else would, and each takes more than a hundred megabytes. Data
 * for other directories stays: those may be on a disk that is not mounted just now.
 */
export async function removeForsaken(home: string, log: (line: string) => void): Promise<void> {
  const base = dirname(home);
  const temporary = (await realpath(tmpdir())) + sep;
  for (const name of await readdir(base)) {
    const other = join(base, name);
    const dir = await readFile(join(other, MADE_FOR_FILE), "utf8").catch(() => undefined);
    if (dir === undefined || other === home || !dir.startsWith(temporary) || !(await isGone(dir))) continue;
    const release = await claim(join(other, "postgres.lock"), `the Postgres data of ${dir}`).catch(() => undefined);
    if (release === undefined) continue;
    await stopLeftover(join(other, "data"));
    await rm(other, { recursive: true, force: true });
    log(`removed ${other}: the directory it was made for, ${dir}, is gone`);
  }
}

/** Not merely out of reach. */
function isGone(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === "ENOENT",
  );
}
