import { type AttemptRef, type FromNode, NODE_MESSAGE_BYTES_MAX } from "@frazil/contracts";
import type { Logger } from "pino";
import { attemptKey } from "./lease-queue.ts";
import type { FinishedMessage, Spool } from "./spool.ts";

type StagedMessage = Extract<FromNode, { type: "staged" }>;

/** An outcome that was not acknowledged within this goes to disk. On a working connection none ever does. */
const SPOOL_AFTER_MS = 250;
const SWEEP_INTERVAL_MS = 125;
const RESEND_AFTER_MS = 5_000;
const RESEND_AFTER_MAX_MS = 60_000;
/** Most queries are over before anybody could look: only what takes longer is told of, many together. */
const STARTED_AFTER_MS = 30;
/** Attempts named in one `started` message: well below the size of a frame. */
const STARTED_PER_MESSAGE = Math.floor(NODE_MESSAGE_BYTES_MAX / 128);

interface Entry {
  readonly ref: AttemptRef;
  message: StagedMessage | FinishedMessage;
  readonly addedAt: number;
  sentAt: number;
  sends: number;
  /** Settles when the file is written; undefined while there is none. */
  saved: Promise<void> | undefined;
}

/** What the control plane must acknowledge: kept and sent again until it does. */
export interface Outbox {
  staged(message: StagedMessage): void;
  finished(message: FinishedMessage): void;
  /** The attempt's outcome was refused: this goes out in its place. */
  replace(message: FinishedMessage): void;
  /** The control plane has answered for this attempt; for what was staged only, where that is said: not for the outcome that may have taken its place. */
  settle(ref: AttemptRef, only?: "staged"): void;
  /** A hint for those who watch, told after a moment: not of attempts that are over by then. */
  started(refs: readonly AttemptRef[]): void;
  /** A new connection is up: everything unanswered goes out again. */
  resendAll(): void;
  has(ref: AttemptRef): boolean;
  holding(): AttemptRef[];
  size(): number;
  /** Everything that is not acknowledged is on disk. */
  saveAll(): Promise<void>;
}

export interface OutboxDeps {
  send(message: FromNode): boolean;
  readonly spool: Spool;
  readonly log: Logger;
}

export function createOutbox(deps: OutboxDeps, found: readonly FinishedMessage[]): Outbox {
  const entries = new Map<string, Entry>();
  for (const message of found) {
    const entry = newEntry(message);
    entry.saved = Promise.resolve();
    entries.set(attemptKey(message), entry);
  }
  const starting = new Map<string, AttemptRef>();
  let sweep: NodeJS.Timeout | undefined;

  function add(message: StagedMessage | FinishedMessage): void {
    const entry = newEntry(message);
    const key = attemptKey(message);
    entries.set(key, entry);
    if (message.type === "finished") starting.delete(key);
    send(entry);
    watch();
  }

  function send(entry: Entry): void {
    entry.sentAt = performance.now();
    if (deps.send(entry.message)) entry.sends += 1;
  }

  function watch(): void {
    sweep ??= setInterval(onSweep, SWEEP_INTERVAL_MS);
  }

  function onSweep(): void {
    if (entries.size === 0) {
      clearInterval(sweep);
      sweep = undefined;
      return;
    }
    const now = performance.now();
    for (const [key, entry] of entries) {
      if (entry.saved === undefined && now - entry.addedAt >= SPOOL_AFTER_MS) save(key, entry);
      const patienceMs = Math.min(RESEND_AFTER_MAX_MS, RESEND_AFTER_MS * 2 ** Math.max(0, entry.sends - 1));
      if (now - entry.sentAt >= patienceMs) send(entry);
    }
  }

  function save(key: string, entry: Entry): void {
    // What is only staged lives and dies with its engine, and so with this agent.
    if (entry.message.type !== "finished") return;
    entry.saved = keepOnDisk(key, entry.message);
  }

  function keepOnDisk(key: string, message: FinishedMessage): Promise<void> {
    return deps.spool.save(key, message).catch((error) => {
      deps.log.error({ error: (error as Error).message }, "an outcome could not be kept on disk");
    });
  }

  function sendStarted(): void {
    const refs = [...starting.values()];
    starting.clear();
    for (let at = 0; at < refs.length; at += STARTED_PER_MESSAGE) {
      deps.send({ type: "started", tasks: refs.slice(at, at + STARTED_PER_MESSAGE) });
    }
  }

  return {
    staged: add,
    finished: add,
    replace(message) {
      const key = attemptKey(message);
      const entry = entries.get(key);
      if (entry === undefined) return;
      entry.message = message;
      const before = entry.saved;
      if (before !== undefined) entry.saved = before.then(() => keepOnDisk(key, message));
      send(entry);
    },
    settle(ref, only) {
      const key = attemptKey(ref);
      const entry = entries.get(key);
      if (entry === undefined || (only !== undefined && entry.message.type !== only)) return;
      entries.delete(key);
      if (entry.saved !== undefined) void entry.saved.then(() => deps.spool.remove(key)).catch(() => {});
    },
    started(refs) {
      if (starting.size === 0) setTimeout(sendStarted, STARTED_AFTER_MS).unref();
      for (const { taskId, attempt } of refs) starting.set(attemptKey({ taskId, attempt }), { taskId, attempt });
    },
    resendAll() {
      for (const entry of entries.values()) send(entry);
      if (entries.size > 0) watch();
    },
    has: (ref) => entries.has(attemptKey(ref)),
    holding: () => [...entries.values()].map((entry) => entry.ref),
    size: () => entries.size,
    async saveAll() {
      for (const [key, entry] of entries) if (entry.saved === undefined) save(key, entry);
      await Promise.all([...entries.values()].map((entry) => entry.saved));
    },
  };
}

function newEntry(message: StagedMessage | FinishedMessage): Entry {
  const now = performance.now();
  const ref = { taskId: message.taskId, attempt: message.attempt };
  return { ref, message, addedAt: now, sentAt: now, sends: 0, saved: undefined };
}
