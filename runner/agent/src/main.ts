import { hostname } from "node:os";
import { type Logger, pino } from "pino";
import manifest from "../package.json" with { type: "json" };
import { type Agent, type AgentEnd, startAgent } from "./agent.ts";
import { backoffMs } from "./backoff.ts";
import { type Config, ConfigError, readConfig } from "./config.ts";
import { createApi, join, RefusedError } from "./control-plane-api.ts";
import { endOrphans, type Owner } from "./engine-files.ts";
import { createEnvironments } from "./environments.ts";
import { startGuard } from "./guard.ts";
import { type Identity, loadIdentity, saveIdentity } from "./identity.ts";
import { type FoundPython, findPythons } from "./pythons.ts";
import { openSpool } from "./spool.ts";
import { killCommands, runCommand } from "./uv.ts";

const JOIN_RETRY_BASE_MS = 200;
const JOIN_RETRY_CAP_MS = 5_000;
const LOOKUP_WITHIN_MS = 5_000;
/** What a cloud can tell from the exit code: all is well, it broke, it was not wanted, nobody was there. */
const EXIT_CODES = { drained: 0, broken: 1, refused: 2, abandoned: 3 } as const;

async function main(): Promise<void> {
  const config = readConfig(process.env);
  const log = pino({ level: config.logLevel, base: { pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
  process.once("uncaughtException", (error) => breakDown(log, error));
  const orphans = await endOrphans(config.nodeDir);
  if (orphans > 0) log.warn({ orphans }, "ended engines of an earlier agent");
  const guard = startGuard(config.nodeDir);
  const pythons = await findPythons();
  const identity = await findIdentity(config, log, pythons);
  if (identity === "refused" || identity === "abandoned") {
    guard.stop();
    process.exit(EXIT_CODES[identity]);
  }
  const { spool, found } = await openSpool(config.nodeDir);
  const agent = startAgent({
    config,
    log: log.child({ node: identity.nodeId }),
    api: createApi(config.address, identity.nodeToken),
    nodeToken: identity.nodeToken,
    environments: await createEnvironments({ config, log, pythons }),
    pythons,
    owner: await findOwner(config.engineUser),
    spool,
    found,
  });
  endWith(agent, log);
  const end: AgentEnd = await agent.ended;
  guard.stop();
  log.info({ end }, "agent ends");
  process.exit(EXIT_CODES[end]);
}

/** The identity of an earlier agent of this node; else joins, again and again while nobody answers. */
async function findIdentity(
  config: Config,
  log: Logger,
  pythons: readonly FoundPython[],
): Promise<Identity | "refused" | "abandoned"> {
  const known = await loadIdentity(config.nodeDir);
  if (known !== undefined) return known;
  if (config.joinToken === undefined)
    throw new ConfigError("FRAZIL_JOIN_TOKEN is not set, and this node has not joined before.");
  const request = {
    joinToken: config.joinToken,
    agentVersion: manifest.version,
    hostname: hostname(),
    pid: process.pid,
    pythons: pythons.map((python) => python.minor),
  };
  const deadline = performance.now() + config.abandonedAfterMs;
  for (let failures = 0; ; failures += 1) {
    try {
      const identity = await join(config.address, request);
      await saveIdentity(config.nodeDir, identity);
      return identity;
    } catch (error) {
      log.warn({ error: (error as Error).message }, "not joined yet");
      if (error instanceof RefusedError && error.final) return "refused";
      if (performance.now() >= deadline) return "abandoned";
    }
    await new Promise((resolve) => setTimeout(resolve, backoffMs(failures, JOIN_RETRY_BASE_MS, JOIN_RETRY_CAP_MS)));
  }
}

/** Only root can start processes as somebody else. */
async function findOwner(user: string | undefined): Promise<Owner | undefined> {
  if (user === undefined || process.getuid?.() !== 0) return undefined;
  const [uid, gid] = await Promise.all(["-u", "-g"].map((flag) => runCommand("id", [flag, user], LOOKUP_WITHIN_MS)));
  const owner = { uid: Number(uid?.output.trim()), gid: Number(gid?.output.trim()) };
  if (!uid?.ok || !gid?.ok || !Number.isInteger(owner.uid) || !Number.isInteger(owner.gid)) {
    throw new ConfigError(`FRAZIL_ENGINE_USER: there is no user "${user}" on this node.`);
  }
  return owner;
}

function endWith(agent: Agent, log: Logger): void {
  let asked = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      // A person who asks twice means now. A cloud asks again and again until the node is gone.
      if (asked && signal === "SIGINT") process.exit(EXIT_CODES.drained);
      asked = true;
      log.info({ signal }, "asked to end");
      agent.drain();
    });
  }
  process.on("exit", () => {
    agent.killAll();
    killCommands();
  });
}

function breakDown(log: Logger, error: unknown): void {
  log.fatal({ err: error }, "agent broke down");
  process.exit(EXIT_CODES.broken);
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof ConfigError ? error.message : (error as Error).stack}\n`);
  process.exit(EXIT_CODES.broken);
});
