import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import type { Config } from "./config.ts";
import type { EngineOrder } from "./engine-choice.ts";
import { makeTempDir, type Owner, recordEngine, removeEngineFiles } from "./engine-files.ts";
import { type EngineEnd, type EngineEvents, type EngineProcess, spawnEngine } from "./engine-process.ts";
import { engineVariables } from "./engine-variables.ts";

/** What an engine that does not start may say in the error. */
const START_OUTPUT_CHARS_MAX = 4_000;

/** Why a program can't be started at all. Whatever else it is (no process or memory to be had, an environment that was just removed) may pass. */
const LASTING = new Set(["EACCES", "ENOEXEC", "EPERM"]);

export class EngineStartError extends Error {
  /** It could not even be started, or ended by itself with an error: it will do so again. */
  readonly permanent: boolean;
  constructor(message: string, permanent: boolean) {
    super(message);
    this.permanent = permanent;
  }
}

export interface StartDeps {
  readonly config: Config;
  readonly log: Logger;
  /** Who engines run as, when not as the agent. */
  readonly owner: Owner | undefined;
}

export interface StartedEngine {
  readonly process: EngineProcess;
  /** Rejects with EngineStartError. */
  readonly ready: Promise<void>;
}

/** Starts a process. It is there before it is ready, so that whoever asked for it can end it meanwhile. */
export async function startEngine(
  deps: StartDeps,
  order: Pick<EngineOrder, "environment" | "threads" | "variables">,
): Promise<StartedEngine> {
  const { config, owner } = deps;
  const mark = randomBytes(12).toString("hex");
  const tempDir = await makeTempDir(config.nodeDir, mark, owner);
  const startup = watchStartup(config.engineStartMs);
  const variables = engineVariables({
    node: process.env,
    user: order.variables,
    python: order.environment.python,
    engineDir: config.engineDir,
    tempDir,
    homeDir: owner === undefined ? undefined : tempDir,
    threads: order.threads,
    agentPid: process.pid,
    mark,
  });
  const { python } = order.environment;
  const options = { python, variables, workDir: tempDir, mark, uid: owner?.uid, gid: owner?.gid };
  try {
    const started = await spawnEngine(options, startup.events);
    startup.onLate = () => started.kill();
    recordEngine(config.nodeDir, started.root).catch((error) => deps.log.warn({ err: error }, "engine not recorded"));
    return { process: started, ready: startup.ready };
  } catch (error) {
    startup.stop();
    await removeEngineFiles(config.nodeDir, mark);
    const reason = (error as Error).message;
    const isLasting = LASTING.has((error as NodeJS.ErrnoException).code ?? "");
    const access = owner === undefined ? "" : ` User ${owner.uid} must be able to reach ${tempDir} and ${python}.`;
    throw new EngineStartError(`The engine could not be started: ${reason}.${access}`, isLasting);
  }
}

/** Hears an engine until it is ready. */
function watchStartup(withinMs: number) {
  let output = "";
  const settled = Promise.withResolvers<void>();
  // The failure is told to whoever waits; an engine that nobody waits for must not bring the agent down.
  settled.promise.catch(() => {});
  const events: EngineEvents = {
    onMessage(message) {
      if (message.type !== "ready") return;
      clearTimeout(timer);
      settled.resolve();
    },
    onOutput(_stream, chunk) {
      output = (output + chunk.toString("utf8")).slice(-START_OUTPUT_CHARS_MAX);
    },
    onEnd(end) {
      clearTimeout(timer);
      settled.reject(startFailure(end, output));
    },
  };
  const startup = { events, ready: settled.promise, onLate() {}, stop: () => clearTimeout(timer) };
  const timer = setTimeout(() => {
    settled.reject(new EngineStartError(`The engine was not ready within ${withinMs / 1000} s.`, false));
    startup.onLate();
  }, withinMs);
  return startup;
}

function startFailure(end: EngineEnd, output: string): EngineStartError {
  const how = end.signal === null ? `with exit code ${end.exitCode}` : `by ${end.signal}`;
  const said = output.trim() === "" ? "It wrote nothing." : `It wrote:\n${output.trim()}`;
  return new EngineStartError(`The engine ended ${how} before it was ready. ${said}`, end.signal === null);
}
