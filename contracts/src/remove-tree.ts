import { chmod, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

const OWNER_ONLY = 0o700;
const DENIED = new Set(["EACCES", "EPERM"]);

/** Removes a folder with all that is in it, also where that denies writing: what user code copies or unpacks may. Follows no link. */
export async function removeTree(path: string): Promise<void> {
  try {
    await remove(path);
  } catch (error) {
    if (!DENIED.has((error as NodeJS.ErrnoException).code ?? "")) throw error;
    await allowWriting(path);
    await remove(path);
  }
}

const remove = (path: string) => rm(path, { recursive: true, force: true, maxRetries: 3 });

async function allowWriting(folder: string): Promise<void> {
  await chmod(folder, OWNER_ONLY);
  for (const entry of await readdir(folder, { withFileTypes: true }))
    if (entry.isDirectory()) await allowWriting(join(folder, entry.name));
}
