/**
 * Adds to package-lock.json the optional platform packages that `npm install` left out because the registry in use does not hold them.
 * npm 11 refuses such a lock file in `npm ci`, although none of these packages is ever fetched on a platform that does not need it.
 * Run it after `npm install`, when `npm ci --dry-run` reports packages as missing from the lock file.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const LOCK_FILE = join(dirname(fileURLToPath(import.meta.url)), "..", "package-lock.json");
const EXACT_VERSION = /^\d+\.\d+\.\d+(-[\w.]+)?$/;
const SYSTEMS = ["aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "openharmony", "sunos", "win32"];
const PROCESSORS = ["arm64", "arm", "ia32", "loong64", "mips64el", "ppc64", "riscv64", "s390x", "x64"];

/** The lock entry of a package whose name tells its platform, e.g. `@biomejs/cli-linux-x64-musl`. */
function describePlatformPackage(name, version) {
  const words = name.split(/[-/]/);
  const os = SYSTEMS.find((system) => words.includes(system));
  const cpu = PROCESSORS.find((processor) => words.includes(processor));
  if (!os || !cpu) throw new Error(`cannot tell the platform of ${name} from its name`);
  const libc = words.find((word) => /^(musl|gnu)/.test(word));
  return {
    version,
    cpu: [cpu],
    ...(libc && { libc: [libc.startsWith("musl") ? "musl" : "glibc"] }),
    optional: true,
    os: [os],
  };
}

function findMissing(packages) {
  const missing = {};
  for (const { optionalDependencies = {} } of Object.values(packages)) {
    for (const [name, version] of Object.entries(optionalDependencies)) {
      const known = Object.keys(packages).some((path) => path.endsWith(`node_modules/${name}`));
      if (known) continue;
      if (!EXACT_VERSION.test(version)) throw new Error(`${name}@${version} is missing and not pinned to one version`);
      missing[`node_modules/${name}`] = describePlatformPackage(name, version);
    }
  }
  return missing;
}

const lock = JSON.parse(readFileSync(LOCK_FILE, "utf8"));
const missing = findMissing(lock.packages);
const entries = Object.entries({ ...lock.packages, ...missing }).sort(([a], [b]) => (a < b ? -1 : 1));
lock.packages = Object.fromEntries(entries);
writeFileSync(LOCK_FILE, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`added ${Object.keys(missing).length} platform packages to package-lock.json`);
