import { EventEmitter } from "node:events";
import pg from "pg";
import type { Sql } from "./pool.ts";

/**
 * Tells waiters (long polls, event streams, dispatchers) that something changed: at once within this process, through LISTEN/NOTIFY to the other replicas.
 * A hint only: whoever is woken looks at Postgres, and looks now and then anyway.
 */
export interface Changes {
  notify(topic: string): void;
  /** Resolves when the topic changes, after `timeoutMs`, or when the signal aborts. Subscribe before you look. */
  next(topic: string, timeoutMs: number, signal?: AbortSignal): Promise<void>;
  listen(topic: string, listener: () => void): () => void;
  onAny(listener: (topic: string) => void): void;
  /** Whether changes of other processes arrive: the connection for them answered a moment ago. */
  isLive(): boolean;
  /** The connection broke: changes of other processes may be missed until it is there again. */
  onGap(listener: () => void): () => void;
  /** Postgres takes questions and does not answer them. `listener` hears of the beginning of each such time. */
  isStalled(): boolean;
  onStall(listener: () => void): () => void;
  /**
   * How long Postgres has answered this process without a break; 0 while it does not. What it says of silence in the time before is no one else's silence:
   * nobody may have been there to hear, so that a process which starts knows no better than one that connects again.
   */
  healthyForMs(): number;
  close(): Promise<void>;
}

const CHANNEL = "frazil_changes";
const RECONNECT_MS = 1_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** NOTIFYs of one process are sent together at most this often. */
const COALESCE_MS = 20;
/** A payload has less than 8,000 bytes, and the longest topics take 90: a node and an attempt. */
const TOPICS_PER_PAYLOAD = 80;
/** The connection is asked for a sign of life this often. */
const PULSE_MS = 1_000;
const LIVE_WITHIN_MS = 2_000;
/** Postgres is taken as stalled when there was none at so many looks; looks, not time: this process may have stood still itself. */
const STALLED_AFTER_LOOKS = 7;
/** And the connection is given up for another one after so many. */
const GIVEN_UP_AFTER_LOOKS = 60;

const STALL = Symbol("stall");
const GAP = Symbol("gap");

export async function openChanges(sql: Sql, connectionString: string, processId: string): Promise<Changes> {
  const emitter = new EventEmitter().setMaxListeners(0);
  const announce = (topic: string) => {
    emitter.emit(topic);
    emitter.emit("*", topic);
  };
  const listening = await openListening(connectionString, {
    onPayload(payload) {
      const [sender, ...topics] = payload.split("\n");
      if (sender !== processId) for (const topic of topics) announce(topic);
    },
    onStall: () => emitter.emit(STALL),
    onGap: () => emitter.emit(GAP),
  });
  const sender = openSender(sql, processId);
  const listen = (topic: string | symbol, listener: () => void) => {
    emitter.on(topic, listener);
    return () => void emitter.off(topic, listener);
  };
  return {
    notify(topic) {
      announce(topic);
      sender.send(topic);
    },
    next(topic, timeoutMs, signal) {
      return new Promise((resolve) => {
        const done = () => {
          clearTimeout(limit);
          emitter.off(topic, done);
          signal?.removeEventListener("abort", done);
          resolve();
        };
        const limit = setTimeout(done, timeoutMs);
        emitter.on(topic, done);
        signal?.addEventListener("abort", done);
      });
    },
    listen,
    onAny: (listener) => void emitter.on("*", listener),
    isLive: listening.isLive,
    isStalled: listening.isStalled,
    healthyForMs: listening.healthyForMs,
    onStall: (listener) => listen(STALL, listener),
    onGap: (listener) => listen(GAP, listener),
    async close() {
      sender.close();
      await listening.close();
    },
  };
}

/** Tells the other processes, of what comes together in one go. */
function openSender(sql: Sql, processId: string) {
  const pending = new Set<string>();
  let timer: NodeJS.Timeout | undefined;
  const flush = () => {
    timer = undefined;
    const topics = [...pending];
    pending.clear();
    for (let at = 0; at < topics.length; at += TOPICS_PER_PAYLOAD) {
      const payload = [processId, ...topics.slice(at, at + TOPICS_PER_PAYLOAD)].join("\n");
      sql.query({ text: "SELECT pg_notify($1, $2)", values: [CHANNEL, payload] }).catch(() => undefined);
    }
  };
  return {
    send(topic: string) {
      pending.add(topic);
      timer ??= setTimeout(flush, COALESCE_MS).unref();
    },
    close: () => clearTimeout(timer),
  };
}

/** Holds one connection that listens, opened again whenever it breaks, and asks it for signs of life. */
async function openListening(
  connectionString: string,
  on: { onPayload(payload: string): void; onStall(): void; onGap(): void },
) {
  let client: pg.Client | undefined;
  let closed = false;
  let askedAtMs: number | undefined;
  let looks = 0;
  let stalled = false;
  let healthySinceMs = performance.now();
  let retry: NodeJS.Timeout | undefined;

  const connect = async () => {
    const fresh = new pg.Client({
      connectionString,
      application_name: "frazil-changes",
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    });
    fresh.on("notification", (message) => on.onPayload(message.payload ?? ""));
    fresh.on("error", () => undefined);
    fresh.on("end", () => {
      if (client === fresh) lose();
    });
    try {
      await fresh.connect();
      await fresh.query(`LISTEN ${CHANNEL}`);
    } catch (error) {
      fresh.end().catch(() => undefined);
      throw error;
    }
    if (closed) return void fresh.end().catch(() => undefined);
    client = fresh;
    askedAtMs = undefined;
    stalled = false;
    healthySinceMs = performance.now();
  };
  const lose = () => {
    client = undefined;
    on.onGap();
    const again = () => connect().catch(lose);
    if (!closed) retry = setTimeout(again, RECONNECT_MS).unref();
  };
  const pulse = () => {
    const asked = client;
    if (asked === undefined) return;
    if (askedAtMs === undefined) {
      askedAtMs = performance.now();
      looks = 0;
      const answered = () => {
        if (client !== asked) return;
        askedAtMs = undefined;
        if (stalled) healthySinceMs = performance.now();
        stalled = false;
      };
      // One that fails is answered too; a connection that broke tells so by itself.
      asked.query("SELECT 1").then(answered, answered);
      return;
    }
    looks += 1;
    if (looks === STALLED_AFTER_LOOKS) {
      stalled = true;
      on.onStall();
    }
    if (looks < GIVEN_UP_AFTER_LOOKS) return;
    lose();
    asked.end().catch(() => undefined);
  };
  await connect();
  const timer = setInterval(pulse, PULSE_MS).unref();
  return {
    isLive: () => client !== undefined && (askedAtMs === undefined || performance.now() - askedAtMs < LIVE_WITHIN_MS),
    isStalled: () => stalled,
    healthyForMs: () => (client === undefined || stalled ? 0 : performance.now() - healthySinceMs),
    async close() {
      closed = true;
      clearInterval(timer);
      clearTimeout(retry);
      const last = client;
      client = undefined;
      await last?.end();
    },
  };
}
