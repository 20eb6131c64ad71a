import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
/** What the scripts write for themselves: lock, stamps, logs and reports. Safe to delete. */
export const STATE_DIR = join(ROOT, ".frazil");
export const VENV_DIR = join(ROOT, ".venv");
export const VENV_BIN = join(VENV_DIR, "bin");

const LOCAL_BIN = join(ROOT, "node_modules", ".bin");

/** PATH without this project's own commands: npm puts the pinned Node first there, and `npm ci` deletes it while it runs. */
export function machinePath() {
  return (process.env.PATH ?? "")
    .split(delimiter)
    .filter((folder) => !folder.startsWith(join(ROOT, "node_modules")))
    .join(delimiter);
}

/** PATH for everything that runs after the bootstrap. Last come uv and redis-server from .venv, for machines that have none. */
export function projectPath(nodeFolder) {
  return [nodeFolder, LOCAL_BIN, machinePath(), VENV_BIN].join(delimiter);
}
