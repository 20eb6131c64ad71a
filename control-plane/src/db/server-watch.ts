import pg from "pg";
import type { Sql } from "./pool.ts";

/** A connection of its own is opened this often. */
const LOOK_EVERY_MS = 3_000;
const CONNECT_TIMEOUT_MS = 2_000;
/** What a server answers to newcomers while it starts, and while it waits for the last client to leave before it ends. */
const CANNOT_CONNECT_NOW = "57P03";

/**
 * Tells once that the server wants to end. A Postgres that gets SIGTERM takes no new connections, serves those that it has, and ends when the last of
 * them has left: a process that holds its connections for good keeps it in that state for good.
 */
export function watchServer(sql: Sql, connectionString: string, onEnding: () => void): { close(): void } {
  let looking = false;
  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    void isEnding(sql, connectionString)
      .then((ending) => {
        if (ending) onEnding();
      })
      .finally(() => {
        looking = false;
      });
  }, LOOK_EVERY_MS);
  timer.unref();
  return { close: () => clearInterval(timer) };
}

async function isEnding(sql: Sql, connectionString: string): Promise<boolean> {
  if ((await connectBriefly(connectionString)) !== CANNOT_CONNECT_NOW) return false;
  // One that only starts has no connection that answers.
  return sql.query({ text: "SELECT 1" }).then(
    () => true,
    () => false,
  );
}

/** The code of the error, if any. */
async function connectBriefly(connectionString: string): Promise<string | undefined> {
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  client.on("error", () => undefined);
  try {
    await client.connect();
    return undefined;
  } catch (error) {
    return String((error as { code?: unknown }).code);
  } finally {
    client.end().catch(() => undefined);
  }
}
