import {
  chooseEngine,
  chooseEvictions,
  choosePristine,
  type EngineFacts,
  type EngineOrder,
  mustRetire,
  type RecentUse,
} from "./engine-choice.ts";
import { removeEngineFiles } from "./engine-files.ts";
import type { EngineEvents, EngineProcess } from "./engine-process.ts";
import { type StartDeps, startEngine } from "./engine-start.ts";
import type { EngineEnvironment } from "./environments.ts";
import { listProcesses, readMemoryBytes } from "./process-list.ts";
import { findTree, killOffspring, waitUntilGone } from "./process-tree.ts";

/** A leak that no memory bound shows (threads, file handles) ends here. */
const ENGINE_RUNS_MAX = 50_000;
/** (environment, threads) pairs for which a pristine engine is kept. */
const PRISTINE_MAX = 2;
const SWEEP_INTERVAL_MS = 5_000;
const CLOSE_POLL_MS = 5;
const CLOSE_WITHIN_MS = 10_000;
const GROWN_RATIO = 1.1;
const MIB = 1024 * 1024;

export interface Engine extends EngineFacts {
  readonly process: EngineProcess;
  readonly ready: Promise<void>;
  workspaceId: string | null;
  user: string | null;
  state: EngineFacts["state"];
  idleAt: number;
  /** As last measured, in a run or between two. */
  memoryBytes: number;
  /** As last measured between two runs. */
  restBytes: number;
  /** Who waits for its present run to end. Told `undefined` when it is not to be had after all. */
  successor: ((engine: Engine | undefined) => void) | undefined;
  runs: number;
  /** Of which what they left behind was ended. */
  runsCleared: number;
}

export interface NodeSize {
  slots: number;
  memoryMiB: number;
}

export interface EnginesDeps extends StartDeps {
  readonly size: NodeSize;
}

export interface Engines {
  /** A ready engine, now busy. Synchronous when a warm one is there, so that a warm run waits for nothing. */
  take(order: EngineOrder): Engine | Promise<Engine>;
  /** Its run has all its answers: what follows of it is short. */
  finish(engine: Engine): void;
  /** The run is over, and the engine said so. */
  giveBack(engine: Engine, shareBytes: number): void;
  /** Kills it with everything that it started. */
  kill(engine: Engine): void;
  list(): Iterable<Engine>;
  /** This environment is likely to be asked for. */
  remember(environment: EngineEnvironment, threads: number): void;
  /** Whether `prewarm` would start something. */
  wantsPristine(): boolean;
  /** Starts engines that no workspace has asked for yet. */
  prewarm(): void;
  /** Ends all of them and waits until they are gone. */
  close(): Promise<void>;
  /** As `close` without waiting: for the last moments of the process. */
  killAll(): void;
}

interface State {
  readonly deps: EnginesDeps;
  readonly engines: Set<Engine>;
  /** Starts and removals under way. */
  readonly pending: Set<Promise<unknown>>;
  readonly recent: Map<string, RecentUse>;
  closed: boolean;
}

export function createEngines(deps: EnginesDeps): Engines {
  const state: State = { deps, engines: new Set(), pending: new Set(), recent: new Map(), closed: false };
  const sweep = setInterval(
    () => {
      measureIdle(state);
      evict(state);
    },
    Math.min(SWEEP_INTERVAL_MS, deps.config.engineIdleMs),
  );
  sweep.unref();
  const killAll = () => {
    state.closed = true;
    for (const engine of state.engines) end(engine);
  };
  return {
    take: (order) => take(state, order),
    finish(engine) {
      if (engine.state === "busy") engine.state = "finishing";
    },
    giveBack: (engine, shareBytes) => giveBack(state, engine, shareBytes),
    kill: end,
    list: () => state.engines,
    remember: (environment, threads) => remember(state, environment, threads),
    wantsPristine: () => wantedPristine(state).length > 0,
    prewarm: () => prewarm(state),
    killAll,
    async close() {
      clearInterval(sweep);
      killAll();
      const deadlineAt = performance.now() + CLOSE_WITHIN_MS;
      // A process that hangs in the system can't be ended by anybody; it must not keep the node.
      while ((state.engines.size > 0 || state.pending.size > 0) && performance.now() < deadlineAt) {
        await new Promise((resolve) => setTimeout(resolve, CLOSE_POLL_MS));
      }
    },
  };
}

function take(state: State, order: EngineOrder): Engine | Promise<Engine> {
  remember(state, order.environment, order.threads);
  const chosen = chooseEngine(state.engines, order);
  if (chosen === undefined) return start(state, order, order.workspaceId).then(claim);
  // From here on it is promised: nobody else is given an engine that starts for a workspace.
  chosen.workspaceId = order.workspaceId;
  if (chosen.state === "starting") return chosen.ready.then(() => claim(chosen));
  return chosen.state === "finishing" ? awaitEngine(state, chosen, order) : claim(chosen);
}

/** Another engine would take far longer to start than this one to end its run. */
async function awaitEngine(state: State, engine: Engine, order: EngineOrder): Promise<Engine> {
  engine.state = "promised";
  const given = await new Promise<Engine | undefined>((resolve) => {
    engine.successor = resolve;
  });
  return given === undefined ? take(state, order) : claim(given);
}

function claim(engine: Engine): Engine {
  engine.state = "busy";
  engine.runs += 1;
  return engine;
}

/** Keeps the pairs that were used last. */
function remember(state: State, environment: EngineEnvironment, threads: number): void {
  const key = `${environment.key} ${threads}`;
  state.recent.delete(key);
  state.recent.set(key, { environment, threads, usedAt: Date.now() });
  if (state.recent.size > PRISTINE_MAX) state.recent.delete(state.recent.keys().next().value as string);
}

type StartOrder = Pick<EngineOrder, "environment" | "threads" | "variables" | "variablesHash">;

function start(state: State, order: StartOrder, workspaceId: string | null): Promise<Engine> {
  const starting = startAndAdd(state, order, workspaceId);
  track(
    state,
    starting.catch(() => {}),
  );
  return starting;
}

async function startAndAdd(state: State, order: StartOrder, workspaceId: string | null): Promise<Engine> {
  const { log } = state.deps;
  const startedAt = performance.now();
  const started = await startEngine(state.deps, order);
  const engine: Engine = {
    ...started,
    environmentKey: order.environment.key,
    threads: order.threads,
    variablesHash: order.variablesHash,
    workspaceId,
    user: null,
    state: "starting",
    idleAt: 0,
    memoryBytes: 0,
    restBytes: 0,
    successor: undefined,
    runs: 0,
    runsCleared: 0,
  };
  state.engines.add(engine);
  engine.process.onExit = () => {
    engine.state = "ended";
  };
  engine.process.onGone = () => forget(state, engine);
  if (state.closed) end(engine);
  await engine.ready;
  const { pid } = engine.process.root;
  measureAtRest(engine);
  const startMs = Math.round(performance.now() - startedAt);
  log.info({ engine: pid, threads: order.threads, pristine: workspaceId === null, startMs }, "engine ready");
  return engine;
}

function track(state: State, work: Promise<unknown>): void {
  state.pending.add(work);
  void work.then(() => state.pending.delete(work));
}

function giveBack(state: State, engine: Engine, shareBytes: number): void {
  if (engine.state === "ended") return;
  // Only when the last sample shows more than the engine had at rest: what a run used is then taken for the next one's no longer.
  if (engine.memoryBytes > GROWN_RATIO * engine.restBytes) measureAtRest(engine);
  const { runs, memoryBytes } = engine;
  if (state.closed || mustRetire({ runs, runsMax: ENGINE_RUNS_MAX, memoryBytes, shareBytes })) {
    end(engine);
    return;
  }
  const successor = engine.successor;
  engine.successor = undefined;
  rest(engine);
  if (successor !== undefined) {
    engine.state = "promised";
    successor(engine);
    return;
  }
  if (state.engines.size > state.deps.size.slots) evict(state);
}

function measureAtRest(engine: Engine): void {
  engine.memoryBytes = readMemoryBytes(engine.process.root.pid);
  engine.restBytes = engine.memoryBytes;
}

const DEAF: EngineEvents = { onMessage() {}, onOutput() {}, onEnd() {} };

function rest(engine: Engine): void {
  engine.state = "idle";
  engine.idleAt = Date.now();
  engine.process.events = DEAF;
}

/** What user code left behind when its run had ended is ended, once no other run has the engine; what comes later still counts to its memory. */
function measureIdle(state: State): void {
  const suspects = [...state.engines].filter((engine) => engine.state === "idle" && engine.user !== null);
  for (const engine of suspects.filter((one) => one.runs !== one.runsCleared)) {
    engine.runsCleared = engine.runs;
    const processes = killOffspring(engine.process.root);
    if (processes > 0)
      state.deps.log.warn({ engine: engine.process.root.pid, processes }, "ended what a run left behind");
  }
  const processes = suspects.length === 0 ? [] : listProcesses();
  for (const engine of suspects) {
    const tree = findTree(engine.process.root, processes);
    engine.memoryBytes = tree.reduce((total, { pid }) => total + readMemoryBytes(pid), 0);
  }
}

function evict(state: State): void {
  const { config, size } = state.deps;
  const limits = {
    idleEnginesMax: size.slots + PRISTINE_MAX,
    idleMemoryBytesMax: (size.memoryMiB * MIB) / 2,
    threadShareBytes: (size.memoryMiB * MIB) / size.slots,
    idleMs: config.engineIdleMs,
  };
  for (const engine of chooseEvictions(state.engines, limits, Date.now())) end(engine);
}

/** Its process is gone in a moment; until then nobody may be given it. */
function end(engine: Engine): void {
  engine.state = "ended";
  engine.process.kill();
}

/** Its process has ended: what it left behind is removed. */
function forget(state: State, engine: Engine): void {
  const { config, log } = state.deps;
  const { root } = engine.process;
  state.engines.delete(engine);
  engine.successor?.(undefined);
  const removal = waitUntilGone(root).then((gone) => {
    if (!gone) log.error({ engine: root.pid }, "processes of an engine could not be ended");
    return removeEngineFiles(config.nodeDir, root.mark);
  });
  track(
    state,
    removal.catch((error) => log.warn({ err: error }, "files of an engine not removed")),
  );
}

function wantedPristine(state: State): RecentUse[] {
  const { config, size } = state.deps;
  const limits = { memoryMiB: size.memoryMiB, idleMs: config.engineIdleMs };
  return state.closed ? [] : choosePristine(state.engines, state.recent.values(), limits, Date.now());
}

function prewarm(state: State): void {
  for (const { environment, threads } of wantedPristine(state)) {
    start(state, { environment, threads, variables: {}, variablesHash: "" }, null).then(
      (engine) => {
        // Meanwhile it may have been promised to a workspace, which then takes it.
        if (engine.workspaceId === null) rest(engine);
      },
      (error) => {
        // It would fail again; the next run that needs it says why.
        state.recent.delete(`${environment.key} ${threads}`);
        state.deps.log.warn({ error: (error as Error).message }, "no engine could be started in advance");
      },
    );
  }
}
