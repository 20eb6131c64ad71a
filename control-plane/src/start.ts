import { randomUUID } from "node:crypto";
import type { Server } from "node:http";
import { join } from "node:path";
import { LEASE_TTL_MS } from "@frazil/contracts";
import type { Cloud } from "@frazil/infra";
import { applyMigrations } from "@frazil/migrations";
import { serve } from "@hono/node-server";
import type { Logger } from "pino";
import type { Config } from "./config.ts";
import { openChanges } from "./db/changes.ts";
import { db } from "./db/index.ts";
import { openPool } from "./db/pool.ts";
import { openPrisma } from "./db/prisma.ts";
import { makeSealer } from "./domain/seal.ts";
import type { Deps } from "./flow/deps.ts";
import { makeDispatcher } from "./flow/dispatch.ts";
import { makeEndings } from "./flow/endings.ts";
import { makeHeard } from "./flow/node-messages.ts";
import { startReconciler } from "./flow/reconcile.ts";
import { makeRecorder } from "./flow/record.ts";
import { runStep } from "./flow/steps.ts";
import { orderSweep } from "./flow/sweep.ts";
import { openTemplates } from "./flow/templates.ts";
import { serveAgentSockets } from "./http/agent-socket.ts";
import { type AppDeps, makeApp } from "./http/app.ts";
import { makeMetrics } from "./http/metrics.ts";
import { openQueue } from "./queue/bull.ts";

export interface ControlPlane {
  /** Where clients and nodes reach it. */
  readonly address: string;
  /** Where it listens. */
  readonly port: number;
  readonly deps: AppDeps;
  close(): Promise<void>;
}

/** Requests that are being answered when the process is told to end get this long. */
const DRAIN_MS = 2_000;
const KEEP_ALIVE_MS = 75_000;
/** A sender that is silent for so long within a body is given up. */
const BODY_IDLE_MS = 60_000;

/** Opens everything, applies migrations, and serves. */
export async function startControlPlane(config: Config, clouds: readonly Cloud[], log: Logger): Promise<ControlPlane> {
  const applied = await applyMigrations(config.databaseUrl);
  if (applied.length > 0) log.info({ applied }, "migrations applied");
  const pool = openPool(config.databaseUrl, (error) => log.warn({ err: error }, "database connection"));
  const changes = await openChanges(pool, config.databaseUrl, randomUUID());
  const queue = openQueue(config, log);
  const settings = {
    leaseTtlMs: config.leaseTtlMs ?? LEASE_TTL_MS,
    bodyIdleMs: BODY_IDLE_MS,
    address: "",
    cacheDir: join(config.home, "cache"),
  };
  const sealer = makeSealer(config.key);
  const base = {
    pool,
    db,
    changes,
    sealer,
    templates: openTemplates({ pool, db, sealer }),
    clouds: new Map(clouds.map((cloud) => [cloud.name, cloud])),
    queue,
    endings: makeEndings(),
    settings,
    log,
  };
  const dispatcher = makeDispatcher(base);
  const flow: Deps = { ...base, dispatcher };
  changes.onAny((topic) => {
    dispatcher.hear(topic);
    if (topic.startsWith("sweep:")) {
      orderSweep(flow, topic.slice("sweep:".length)).catch((error) =>
        log.warn({ err: error, topic }, "no sweep ordered"),
      );
    }
  });
  const deps: AppDeps = {
    ...flow,
    prisma: openPrisma(config.databaseUrl),
    recorder: makeRecorder(flow),
    heard: makeHeard(flow),
    metrics: makeMetrics(flow),
  };
  await db.clusters.hurryClusters(pool);
  const { server, port } = await listen(makeApp(deps), config);
  settings.address = config.publicAddress ?? `http://${config.host}:${port}`;
  const sockets = serveAgentSockets(deps, server);
  queue.consume((step, id) => runStep(deps, step, id));
  const reconciler = startReconciler(deps);
  return {
    address: settings.address,
    port,
    deps,
    async close() {
      await reconciler.stop();
      sockets.close();
      await closeServer(server);
      for (const cloud of clouds) await cloud.close();
      await queue.close();
      await changes.close();
      await deps.prisma.$disconnect();
      await pool.end();
    },
  };
}

async function listen(app: ReturnType<typeof makeApp>, config: Config): Promise<{ server: Server; port: number }> {
  try {
    return await listenOn(app, config.host, config.port);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || !config.portFallback) throw error;
    return listenOn(app, config.host, 0);
  }
}

function listenOn(
  app: ReturnType<typeof makeApp>,
  host: string,
  port: number,
): Promise<{ server: Server; port: number }> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch: app.fetch, hostname: host, port }, (address) =>
      resolve({ server, port: address.port }),
    ) as Server;
    // Long polls and streamed submissions take as long as they take; idle ones are ended by their own limits.
    server.requestTimeout = 0;
    server.keepAliveTimeout = KEEP_ALIVE_MS;
    server.on("error", reject);
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const force = setTimeout(() => server.closeAllConnections(), DRAIN_MS);
    server.close(() => {
      clearTimeout(force);
      resolve();
    });
    server.closeIdleConnections();
  });
}
