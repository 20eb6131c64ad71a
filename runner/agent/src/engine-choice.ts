import type { EngineEnvironment } from "./environments.ts";

/** Pure decisions of the engine pool. */

export interface EngineNeed {
  readonly environmentKey: string;
  readonly threads: number;
  /** Empty when the job sets no environment variables. */
  readonly variablesHash: string;
  readonly workspaceId: string;
  readonly user: string;
}

export interface EngineOrder extends EngineNeed {
  readonly environment: EngineEnvironment;
  readonly variables: Readonly<Record<string, string>>;
}

export interface EngineFacts {
  readonly environmentKey: string;
  readonly threads: number;
  readonly variablesHash: string;
  /** The only workspace that it serves; null while it has served nobody. */
  readonly workspaceId: string | null;
  /** The only user that it serves; null until it has opened a plan with Python in it. */
  readonly user: string | null;
  /** `finishing`: its run has all its answers, and it is about to say that it is idle. `promised`: the same, and a run waits for it. */
  readonly state: "starting" | "idle" | "busy" | "finishing" | "promised" | "ended";
  /** When it last became idle. */
  readonly idleAt: number;
  readonly memoryBytes: number;
}

/** Whether this engine may run this job. Engines never cross workspaces, and after Python never users. */
export function mayServe(engine: EngineFacts, need: EngineNeed): boolean {
  if (engine.environmentKey !== need.environmentKey || engine.threads !== need.threads) return false;
  if (engine.variablesHash !== need.variablesHash) return false;
  if (engine.workspaceId !== null && engine.workspaceId !== need.workspaceId) return false;
  return engine.user === null || engine.user === need.user;
}

/**
 * The engine to take: one that has served this workspace, the last used first (its caches are warm), else a pristine one, else one that is about to
 * be idle, else one that is still starting and is promised to nobody. Undefined: start one.
 */
export function chooseEngine<T extends EngineFacts>(engines: Iterable<T>, need: EngineNeed): T | undefined {
  let best: T | undefined;
  for (const engine of engines) {
    if (!isFree(engine) || !mayServe(engine, need)) continue;
    if (best === undefined || rank(engine) > rank(best)) best = engine;
  }
  return best;
}

function isFree(engine: EngineFacts): boolean {
  if (engine.state === "starting") return engine.workspaceId === null;
  return engine.state === "idle" || engine.state === "finishing";
}

function rank(engine: EngineFacts): number {
  if (engine.state === "starting") return -2;
  if (engine.state === "finishing") return -1;
  return engine.workspaceId === null ? 0 : engine.idleAt;
}

export interface PoolLimits {
  readonly idleEnginesMax: number;
  readonly idleMemoryBytesMax: number;
  /** The share of memory that a run has per thread. */
  readonly threadShareBytes: number;
  readonly idleMs: number;
}

/** Idle engines that must go: idle for too long, or grown too large; then the least recently used until both bounds hold. */
export function chooseEvictions<T extends EngineFacts>(engines: Iterable<T>, limits: PoolLimits, now: number): T[] {
  const idle = [...engines]
    .filter((engine) => engine.state === "idle")
    .sort((left, right) => left.idleAt - right.idleAt);
  const evicted: T[] = [];
  let memoryBytes = idle.reduce((total, engine) => total + engine.memoryBytes, 0);
  let count = idle.length;
  for (const engine of idle) {
    const expired = now - engine.idleAt >= limits.idleMs;
    const crowded = count > limits.idleEnginesMax || memoryBytes > limits.idleMemoryBytesMax;
    if (!expired && !crowded && !isTooLarge(engine.memoryBytes, limits.threadShareBytes * engine.threads)) continue;
    evicted.push(engine);
    count -= 1;
    memoryBytes -= engine.memoryBytes;
  }
  return evicted;
}

export interface Retirement {
  readonly runs: number;
  readonly runsMax: number;
  readonly memoryBytes: number;
  readonly shareBytes: number;
}

/** After a run: an engine that keeps half of a run's memory while idle, or has served very long, is replaced. */
export function mustRetire(engine: Retirement): boolean {
  return engine.runs >= engine.runsMax || isTooLarge(engine.memoryBytes, engine.shareBytes);
}

/** An idle engine may keep half of what a run of it may use. */
function isTooLarge(idleBytes: number, shareBytes: number): boolean {
  return idleBytes > shareBytes / 2;
}

export interface RecentUse {
  readonly environment: EngineEnvironment;
  readonly threads: number;
  readonly usedAt: number;
}

/** The part of the node's memory that engines which nobody uses yet may take, and what one of them takes. */
const PRISTINE_MEMORY_PART = 1 / 4;
const PRISTINE_MEMORY_MIB = 128;

/** Of the pairs used lately those without a pristine engine, the newest first, as far as memory allows them one. */
export function choosePristine(
  engines: Iterable<EngineFacts>,
  recent: Iterable<RecentUse>,
  limits: { readonly memoryMiB: number; readonly idleMs: number },
  now: number,
): RecentUse[] {
  const pristine = [...engines].filter((engine) => engine.workspaceId === null);
  const room = Math.floor((limits.memoryMiB * PRISTINE_MEMORY_PART) / PRISTINE_MEMORY_MIB) - pristine.length;
  const isThere = (use: RecentUse) =>
    pristine.some((engine) => engine.environmentKey === use.environment.key && engine.threads === use.threads);
  return [...recent]
    .filter((use) => now - use.usedAt < limits.idleMs && !isThere(use))
    .sort((left, right) => right.usedAt - left.usedAt)
    .slice(0, Math.max(0, room));
}
