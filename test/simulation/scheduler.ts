import { AsyncLocalStorage } from "node:async_hooks";
import { setImmediate as turn } from "node:timers/promises";
import { makeRandom, type Random } from "./random.ts";

/** A simulated process: what it has in memory ends with it. */
export interface Process {
  readonly name: string;
  isAlive: boolean;
  isFrozen: boolean;
  /** How far its wall clock is off. */
  skewMs: number;
  /** Told when the process is killed. */
  readonly onKill: (() => void)[];
}

/** One await of a process: first its effect on the world happens, then the process hears of it. A kill may come before either. */
interface Pending {
  readonly process: Process;
  readonly label: string;
  isReady(): boolean;
  /** Undefined once the effect has happened and only its answer is under way. */
  effect: (() => Promise<Effect> | Effect) | undefined;
  answer: (() => void) | undefined;
}

/** How an effect went: what tells the process, or a promise of it when the effect has to wait for others. */
export type Effect = { readonly answer: () => void } | { readonly waits: Promise<() => void> };

/** What makes faults of its own at each await. Off in the calm. */
export interface Trouble {
  /** Called for each await that is about to take effect. */
  before(process: Process, label: string): "go on" | "kill before" | "kill after";
}

export interface Scheduler {
  readonly random: Random;
  readonly trace: string[];
  trouble: Trouble | undefined;
  nowMs(): number;
  spawn(name: string): Process;
  kill(process: Process): void;
  /** Runs code as the process: its timers, clocks and chance are the simulation's, and so is all that it awaits. */
  inside<T>(process: Process, work: () => T): T;
  /** Puts an await before the scheduler. `effect` runs outside of the process. */
  put(process: Process, label: string, effect: () => Promise<Effect> | Effect, isReady?: () => boolean): void;
  /** An await without more to it than its turn. */
  perform<T>(process: Process, label: string, effect: () => T | Promise<T>): Promise<T>;
  note(line: string): void;
  /** Lets one await go on. False: all wait for time to pass, or for each other. */
  step(): Promise<boolean>;
  /** Moves the clock to the next timer, at least by `leastMs`, at most by `mostMs`. */
  passTime(leastMs: number, mostMs?: number): void;
  /** Processes whose timers are late for now: they neither fire nor count. */
  readonly late: Set<Process>;
  /** Ready awaits that carry this label are lost. */
  drop(matches: (label: string) => boolean): number;
  afterStep: (() => Promise<void>) | undefined;
}

interface SimTimer {
  readonly process: Process;
  dueMs: number;
  readonly ms: number;
  readonly fire: () => void;
}

const current = new AsyncLocalStorage<{ process: Process; scheduler: SchedulerState }>();
/** How often the answer to an await is held back until later than its effect. */
const LATE_ANSWERS = 0.25;
const TRACE_LINES_MAX = 20_000;

interface SchedulerState {
  readonly random: Random;
  /** Chance that the code under test asks for. */
  readonly chance: Random;
  nowMs: number;
  readonly startMs: number;
  readonly pending: Set<Pending>;
  readonly timers: Set<SimTimer>;
  readonly late: Set<Process>;
}

export function makeScheduler(seed: number, startMs: number): Scheduler {
  const state: SchedulerState = {
    random: makeRandom(seed),
    chance: makeRandom(seed ^ 0x5f3759df),
    nowMs: startMs,
    startMs,
    pending: new Set(),
    timers: new Set(),
    late: new Set(),
  };
  const scheduler: Scheduler = {
    random: state.random,
    trace: [],
    trouble: undefined,
    afterStep: undefined,
    nowMs: () => state.nowMs,
    spawn: (name) => ({ name, isAlive: true, isFrozen: false, skewMs: 0, onKill: [] }),
    kill: (process) => kill(state, process),
    inside: (process, work) => current.run({ process, scheduler: state }, work),
    put(process, label, effect, isReady = () => true) {
      state.pending.add({ process, label, isReady, effect, answer: undefined });
    },
    perform: (process, label, effect) =>
      new Promise((resolve, reject) => {
        scheduler.put(process, label, async () => {
          try {
            const value = await effect();
            return { answer: () => resolve(value) };
          } catch (error) {
            return { answer: () => reject(error) };
          }
        });
      }),
    note(line) {
      if (scheduler.trace.length < TRACE_LINES_MAX) scheduler.trace.push(`${state.nowMs - startMs} ${line}`);
    },
    step: () => step(scheduler, state),
    passTime: (leastMs, mostMs = 60_000) => passTime(state, leastMs, mostMs),
    late: state.late,
    drop(matches) {
      const lost = [...state.pending].filter((one) => one.effect !== undefined && matches(one.label));
      for (const one of lost) state.pending.delete(one);
      return lost.length;
    },
  };
  return scheduler;
}

async function step(scheduler: Scheduler, state: SchedulerState): Promise<boolean> {
  const ready = [...state.pending].filter((one) => !one.process.isFrozen && one.isReady());
  const due = [...state.timers].filter((timer) => canFire(state, timer) && timer.dueMs <= state.nowMs);
  if (ready.length + due.length === 0) return false;
  const at = state.random.int(ready.length + due.length);
  if (at >= ready.length) {
    const timer = due[at - ready.length] as SimTimer;
    state.timers.delete(timer);
    current.run({ process: timer.process, scheduler: state }, timer.fire);
  } else await goOn(scheduler, state, ready[at] as Pending);
  // Everything that follows from it in this turn.
  await turn();
  await scheduler.afterStep?.();
  return true;
}

async function goOn(scheduler: Scheduler, state: SchedulerState, chosen: Pending): Promise<void> {
  const { process, label } = chosen;
  if (chosen.effect === undefined) {
    state.pending.delete(chosen);
    scheduler.note(`${process.name}: hears of ${label}`);
    return answerTo(state, process, chosen.answer as () => void);
  }
  const fate = scheduler.trouble?.before(process, label) ?? "go on";
  if (fate === "kill before") {
    scheduler.note(`${process.name}: killed before ${label}`);
    return kill(state, process);
  }
  state.pending.delete(chosen);
  scheduler.note(`${process.name}: ${label}${fate === "kill after" ? ", killed after" : ""}`);
  const done = await chosen.effect();
  const hear = (answer: () => void) => {
    if (!process.isAlive) return;
    if (!state.random.chance(LATE_ANSWERS)) return answerTo(state, process, answer);
    state.pending.add({ process, label, isReady: () => true, effect: undefined, answer });
  };
  if (fate === "kill after") return kill(state, process);
  if ("answer" in done) return hear(done.answer);
  scheduler.note(`${process.name}: waits for ${label}`);
  void done.waits.then(hear);
}

/** What a process does when it hears of something, it does as itself. */
function answerTo(state: SchedulerState, process: Process, answer: () => void): void {
  current.run({ process, scheduler: state }, answer);
}

function kill(state: SchedulerState, process: Process): void {
  if (!process.isAlive) return;
  process.isAlive = false;
  for (const one of state.pending) if (one.process === process) state.pending.delete(one);
  for (const timer of state.timers) if (timer.process === process) state.timers.delete(timer);
  current.exit(() => {
    for (const listener of process.onKill) listener();
  });
}

function canFire(state: SchedulerState, { process }: SimTimer): boolean {
  return !process.isFrozen && !state.late.has(process);
}

function passTime(state: SchedulerState, leastMs: number, mostMs: number): void {
  let nextMs = Number.POSITIVE_INFINITY;
  for (const timer of state.timers) if (canFire(state, timer)) nextMs = Math.min(nextMs, timer.dueMs);
  state.nowMs = Math.max(state.nowMs + leastMs, Math.min(nextMs, state.nowMs + mostMs));
}

const real = {
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  dateNow: Date.now,
  performanceNow: performance.now.bind(performance),
  random: Math.random,
  getRandomValues: crypto.getRandomValues.bind(crypto),
};

class Timer {
  readonly timer: SimTimer;
  readonly state: SchedulerState;
  constructor(timer: SimTimer, state: SchedulerState) {
    this.timer = timer;
    this.state = state;
  }
  unref(): this {
    return this;
  }
  refresh(): this {
    this.timer.dueMs = this.state.nowMs + this.timer.ms;
    if (this.timer.process.isAlive) this.state.timers.add(this.timer);
    return this;
  }
}

/** Gives simulated processes their own time and chance. Whatever runs outside of one has the real ones. */
export function installFakes(): void {
  globalThis.setTimeout = ((callback: (...args: unknown[]) => void, ms = 0, ...args: unknown[]) => {
    const store = current.getStore();
    if (store === undefined) return real.setTimeout(callback, ms, ...args);
    const { process, scheduler } = store;
    const timer: SimTimer = { process, ms, dueMs: scheduler.nowMs + Math.ceil(ms), fire: () => callback(...args) };
    if (process.isAlive) scheduler.timers.add(timer);
    return new Timer(timer, scheduler);
  }) as typeof globalThis.setTimeout;
  globalThis.clearTimeout = ((timer: unknown) => {
    if (timer instanceof Timer) timer.state.timers.delete(timer.timer);
    else real.clearTimeout(timer as NodeJS.Timeout);
  }) as typeof globalThis.clearTimeout;
  Date.now = () => {
    const store = current.getStore();
    return store === undefined ? real.dateNow() : store.scheduler.nowMs + store.process.skewMs;
  };
  performance.now = () => {
    const store = current.getStore();
    return store === undefined ? real.performanceNow() : store.scheduler.nowMs - store.scheduler.startMs;
  };
  Math.random = () => {
    const store = current.getStore();
    return store === undefined ? real.random() : store.scheduler.chance.next();
  };
  crypto.getRandomValues = ((array: Uint8Array) => {
    const store = current.getStore();
    if (store === undefined) return real.getRandomValues(array as never);
    for (let at = 0; at < array.length; at++) array[at] = store.scheduler.chance.int(256);
    return array;
  }) as typeof crypto.getRandomValues;
}
