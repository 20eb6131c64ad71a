import { existsSync } from "node:fs";
import { join } from "node:path";
import { ROOT, STATE_DIR } from "./paths.mjs";
import { runQuietly } from "./run-command.mjs";
import { hashFiles, isStamped, writeStamp } from "./stamp.mjs";

const SCHEMA_FILE = join(ROOT, "migrations", "schema.prisma");
const CONFIG_FILE = join(ROOT, "migrations", "prisma.config.ts");
const OUTPUT_DIR = join(ROOT, "control-plane", "src", "db", "generated");
const STAMP_FILE = join(STATE_DIR, "prisma-client.stamp");

export const prismaClient = { name: "Prisma client", isReady: isGenerated, make: generate };

function currentStamp() {
  return hashFiles([SCHEMA_FILE, CONFIG_FILE, join(ROOT, "node_modules", "prisma", "package.json")]);
}

function isGenerated() {
  return existsSync(OUTPUT_DIR) && isStamped(STAMP_FILE, currentStamp());
}

async function generate(env) {
  // Generating needs no schema engine, but the CLI downloads one unless it is told where it is.
  const generateEnv = {
    ...env,
    PRISMA_SCHEMA_ENGINE_BINARY: "/bin/true",
    PRISMA_HIDE_UPDATE_MESSAGE: "1",
    CHECKPOINT_DISABLE: "1",
  };
  const args = ["generate", "--schema", SCHEMA_FILE, "--config", CONFIG_FILE];
  await runQuietly("prisma", args, { env: generateEnv });
  writeStamp(STAMP_FILE, currentStamp());
}
