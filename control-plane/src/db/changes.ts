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
  close(): Promise<void>;
}

const CHANNEL = "frazil_changes";
const RECONNECT_MS = 1_000;
/** NOTIFYs of one process are sent together at most this often. */
const COALESCE_MS = 20;

export async function openChanges(sql: Sql, connectionString: string, processId: string): Promise<Changes> {
  const emitter = new EventEmitter().setMaxListeners(0);
  const pending = new Set<string>();
  let client: pg.Client | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  const connect = async () => {
    const fresh = new pg.Client({ connectionString, application_name: "frazil-changes" });
    fresh.on("notification", (message) => {
      const [sender, ...topics] = (message.payload ?? "").split("\n");
      if (sender === processId) return;
      for (const topic of topics) announce(topic);
    });
    fresh.on("error", () => undefined);
    fresh.on("end", () => {
      if (!closed) setTimeout(() => void connect().catch(() => undefined), RECONNECT_MS).unref();
    });
    await fresh.connect();
    await fresh.query(`LISTEN ${CHANNEL}`);
    client = fresh;
  };
  const announce = (topic: string) => {
    emitter.emit(topic);
    emitter.emit("*", topic);
  };
  const flush = () => {
    timer = undefined;
    const topics = [...pending];
    pending.clear();
    // A payload holds at most 8,000 bytes: about 200 topics.
    for (let at = 0; at < topics.length; at += 150) {
      const payload = [processId, ...topics.slice(at, at + 150)].join("\n");
      sql.query({ text: "SELECT pg_notify($1, $2)", values: [CHANNEL, payload] }).catch(() => undefined);
    }
  };
  await connect();
  return {
    notify(topic) {
      announce(topic);
      pending.add(topic);
      timer ??= setTimeout(flush, COALESCE_MS).unref();
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
    listen(topic, listener) {
      emitter.on(topic, listener);
      return () => emitter.off(topic, listener);
    },
    onAny: (listener) => void emitter.on("*", listener),
    async close() {
      closed = true;
      clearTimeout(timer);
      await client?.end();
    },
  };
}
