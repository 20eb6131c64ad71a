import { withLock } from "./lock.mjs";
import { nodeModules } from "./node-modules.mjs";
import { projectPath } from "./paths.mjs";
import { findNodeFolder } from "./pinned-node.mjs";
import { prismaClient } from "./prisma-client.mjs";
import { pythonEnv } from "./python-env.mjs";

/**
 * Makes sure that packages, pinned Node, generated Prisma client and Python environment are there and current.
 * Does nothing, in a few milliseconds, when they are. Returns the environment for everything that runs after it.
 */
export async function bootstrap() {
  await ensure(nodeModules, process.env);
  const env = { ...process.env, PATH: projectPath(findNodeFolder()) };
  await ensure(prismaClient, env);
  await ensure(pythonEnv, env);
  return env;
}

async function ensure(part, env) {
  if (part.isReady()) return;
  await withLock(async () => {
    if (part.isReady()) return;
    const startedAt = Date.now();
    process.stdout.write(`setup: ${part.name} ...\n`);
    await part.make(env);
    process.stdout.write(`setup: ${part.name} ready in ${((Date.now() - startedAt) / 1000).toFixed(1)} s\n`);
  });
}
