import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openLocalCloud } from "@frazil/infra";
import { pino } from "pino";
import { bootstrap } from "./bootstrap.ts";
import { ConfigFault, readConfig } from "./config.ts";
import { watchServer } from "./db/server-watch.ts";
import { startControlPlane } from "./start.ts";

/** Something hangs in the shutdown: better to end than to hang. */
const CLOSE_MS_MAX = 10_000;

async function main(): Promise<void> {
  const config = readConfig(process.env);
  const log = pino({ level: config.logLevel, base: { process: "control-plane", pid: process.pid } });
  const local = openLocalCloud({
    nodesDir: join(config.home, "nodes"),
    agentCommand: agentCommand(),
    nodesMax: config.localNodesMax,
  });
  const started = await startControlPlane(config, [local], log);
  log.info({ address: started.address }, "listening");
  const { address, port } = started;
  if (config.bootstrap === undefined) process.send?.({ address, port });
  else process.send?.({ address, port, ...(await bootstrap(started.deps.pool, config.home, config.bootstrap)) });
  watchServer(started.deps.pool, config.databaseUrl, () => {
    // Like a crash: nodes live on, and whoever keeps this process running starts it again.
    log.fatal("Postgres is being shut down and waits for its clients: leaving");
    process.exit(1);
  });
  let closing = false;
  const close = (reason: string) => {
    if (closing) return;
    closing = true;
    log.info({ reason }, "closing");
    setTimeout(() => process.exit(1), CLOSE_MS_MAX).unref();
    started.close().then(
      () => process.exit(0),
      (error) => {
        log.error({ err: error }, "could not close cleanly");
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", () => close("SIGTERM"));
  process.on("SIGINT", () => close("SIGINT"));
  // Started by `pc dev`: ends with it, however that ended.
  process.on("disconnect", () => close("parent is gone"));
}

/** The agent lies beside this file in a build, in its own package in the sources. */
function agentCommand(): [string, ...string[]] {
  const bundled = import.meta.url.endsWith(".mjs");
  const path = bundled ? "./runner.mjs" : "../../runner/agent/src/main.ts";
  return [process.execPath, fileURLToPath(new URL(path, import.meta.url))];
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof ConfigFault ? error.message : (error as Error).stack}\n`);
  process.exit(1);
});
