import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { machinePath, ROOT } from "./paths.mjs";
import { runQuietly } from "./run-command.mjs";

const LOCK_FILE = join(ROOT, "package-lock.json");
/** npm's own record of what it put into node_modules, written as its last act. */
const INSTALLED_FILE = join(ROOT, "node_modules", ".package-lock.json");

export const nodeModules = { name: "node packages (npm ci)", isReady: isInstalled, make: install };

/** True when everything that the lock file names is there in that very version; packages for other platforms may be absent. */
function isInstalled() {
  if (!existsSync(INSTALLED_FILE)) return false;
  const wanted = JSON.parse(readFileSync(LOCK_FILE, "utf8")).packages;
  const installed = JSON.parse(readFileSync(INSTALLED_FILE, "utf8")).packages;
  return Object.entries(wanted).every(([path, entry]) => {
    if (!path.includes("node_modules/") || entry.link) return true;
    const found = installed[path];
    if (!found) return entry.optional === true;
    return found.version === entry.version && found.integrity === entry.integrity;
  });
}

async function install() {
  const env = { ...process.env, PATH: machinePath() };
  await runQuietly("npm", ["ci", "--loglevel=error", "--no-audit", "--no-fund"], { env });
}
