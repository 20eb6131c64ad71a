import type { Engine } from "./engines.ts";
import {
  listProcesses,
  type ProcessInfo,
  readMemoryBytes,
  readProcess,
  readSharedOutMemoryBytes,
} from "./process-list.ts";
import { findTree } from "./process-tree.ts";

/** Asking `ps` is a process of its own. */
const SAMPLE_MIN_MS = process.platform === "linux" ? 10 : 500;
const SAMPLE_YOUNG_MS = process.platform === "linux" ? 25 : 500;
const SAMPLE_MAX_MS = process.platform === "linux" ? 100 : 500;
const YOUNG_MS = 1_000;
/** How often the engine's tree is looked up anew: user code can start processes; Polars by itself does not. */
const SCAN_PYTHON_MS = 250;
const SCAN_PLAIN_MS = 5_000;
/** Processes of one engine at once. Far above what any library starts per core, far below what hurts the machine. */
export const ENGINE_PROCESSES_MAX = 512;

export type Excess =
  | { readonly kind: "out_of_memory"; readonly usedBytes: number; readonly limitBytes: number }
  | { readonly kind: "too_many_processes"; readonly processes: number; readonly limit: number };

export interface Watch {
  readonly startedAt: number;
  peakBytes: number;
  /** Of the engine itself, from the first sample on. */
  cpuMs: number;
  /** One more sample, when the last one is not fresh. */
  refresh(): void;
  end(): void;
}

export interface Supervisor {
  /** Measures a busy engine until `end` is called. `onExcess` is told once. */
  watch(engine: Engine, limitBytes: number, onExcess: (excess: Excess) => void): Watch;
  /** Of the engines of this node, since the last call. */
  measure(engines: Iterable<Engine>): { cpuMs: number; memoryBytes: number };
}

interface State extends Watch {
  readonly engine: Engine;
  readonly limitBytes: number;
  readonly onExcess: (excess: Excess) => void;
  cpuAtFirstMs: number | undefined;
  scannedAt: number;
  sampledAt: number;
  usedBytes: number;
  growthBytesPerMs: number;
  told: boolean;
}

/** One clock for all busy engines; it stands still when none is. */
export function createSupervisor(): Supervisor {
  const watches = new Set<State>();
  const cpuMsByEngine = new WeakMap<Engine, number>();
  let timer: NodeJS.Timeout | undefined;

  function tick(): void {
    timer = undefined;
    const now = performance.now();
    const due = [...watches].filter(
      (watch) => now - watch.scannedAt >= (watch.engine.user === null ? SCAN_PLAIN_MS : SCAN_PYTHON_MS),
    );
    // One look at the process table serves all engines that are due.
    const processes = due.length === 0 ? [] : listProcesses();
    for (const watch of due) scan(watch, processes, now);
    for (const watch of watches) sample(watch, now);
    schedule();
  }

  function schedule(): void {
    if (timer !== undefined || watches.size === 0) return;
    const now = performance.now();
    const waits = [...watches].map((watch) => nextSampleMs(watch, now - watch.startedAt));
    timer = setTimeout(tick, Math.min(...waits));
  }

  return {
    watch(engine, limitBytes, onExcess) {
      const now = performance.now();
      const state: State = {
        engine,
        limitBytes,
        onExcess,
        startedAt: now,
        scannedAt: now,
        sampledAt: now,
        usedBytes: engine.memoryBytes,
        peakBytes: engine.memoryBytes,
        cpuMs: 0,
        cpuAtFirstMs: undefined,
        growthBytesPerMs: 0,
        told: false,
        refresh() {
          const at = performance.now();
          if (at - state.sampledAt >= SAMPLE_MIN_MS) sample(state, at);
        },
        end: () => void watches.delete(state),
      };
      watches.add(state);
      schedule();
      return state;
    },
    measure(engines) {
      let cpuMs = 0;
      let memoryBytes = 0;
      for (const engine of engines) {
        const pids = pidsOf(engine);
        const total = pids.reduce((sum, pid) => sum + (readProcess(pid)?.cpuMs ?? 0), 0);
        cpuMs += Math.max(0, total - (cpuMsByEngine.get(engine) ?? 0));
        cpuMsByEngine.set(engine, total);
        engine.memoryBytes = pids.reduce((sum, pid) => sum + readMemoryBytes(pid), 0);
        memoryBytes += engine.memoryBytes;
      }
      return { cpuMs, memoryBytes };
    },
  };
}

function pidsOf(engine: Engine): number[] {
  const { root } = engine.process;
  return root.known.size === 0 ? [root.pid] : [...root.known.keys()];
}

function scan(watch: State, processes: readonly ProcessInfo[], now: number): void {
  watch.scannedAt = now;
  const count = findTree(watch.engine.process.root, processes).length;
  if (count > ENGINE_PROCESSES_MAX)
    tell(watch, { kind: "too_many_processes", processes: count, limit: ENGINE_PROCESSES_MAX });
}

function sample(watch: State, now: number): void {
  const pids = pidsOf(watch.engine);
  let used = sum(pids, readMemoryBytes);
  // Forks share most of their pages, which the plain numbers count once per process.
  if (used > watch.limitBytes && pids.length > 1) used = sum(pids, readSharedOutMemoryBytes);
  watch.growthBytesPerMs = (used - watch.usedBytes) / Math.max(1, now - watch.sampledAt);
  watch.usedBytes = used;
  watch.sampledAt = now;
  watch.peakBytes = Math.max(watch.peakBytes, used);
  watch.engine.memoryBytes = used;
  const cpuMs = readProcess(watch.engine.process.root.pid)?.cpuMs ?? 0;
  watch.cpuAtFirstMs ??= cpuMs;
  watch.cpuMs = Math.max(watch.cpuMs, cpuMs - watch.cpuAtFirstMs);
  if (used > watch.limitBytes) tell(watch, { kind: "out_of_memory", usedBytes: used, limitBytes: watch.limitBytes });
}

function sum(pids: readonly number[], read: (pid: number) => number): number {
  return pids.reduce((total, pid) => total + read(pid), 0);
}

function tell(watch: State, excess: Excess): void {
  if (watch.told) return;
  watch.told = true;
  watch.onExcess(excess);
}

/** Twice before the limit would be reached at the present rate, within bounds. A young run is looked at often: its rate is not known yet. */
export function nextSampleMs(
  watch: { readonly limitBytes: number; readonly usedBytes: number; readonly growthBytesPerMs: number },
  ageMs: number,
): number {
  const calm = ageMs < YOUNG_MS ? SAMPLE_YOUNG_MS : SAMPLE_MAX_MS;
  if (watch.growthBytesPerMs <= 0) return calm;
  const msToLimit = (watch.limitBytes - watch.usedBytes) / watch.growthBytesPerMs;
  return Math.max(SAMPLE_MIN_MS, Math.min(calm, msToLimit / 2));
}
