import pg from "pg";

/** Something that runs SQL: the pool (autocommit) or the connection of one transaction. */
export interface Sql {
  query<Row extends pg.QueryResultRow>(statement: Statement): Promise<Row[]>;
}
/** A named statement is prepared once per connection. */
export interface Statement {
  readonly name?: string;
  readonly text: string;
  readonly values?: readonly unknown[];
}

/** One transaction. */
export interface Transaction extends Sql {
  /** Nothing more follows: the commit goes out right behind what was sent, before any of that was answered. */
  finish(): void;
}

const CONNECTIONS_MAX = 20;
const CONNECT_TIMEOUT_MS = 10_000;
const STATEMENT_TIMEOUT_MS = 60_000;
/** Postgres ends statements by itself; this is for one that is no longer there, though the connection looks as if it were. */
const ANSWER_TIMEOUT_MS = STATEMENT_TIMEOUT_MS + 15_000;
/** Locks are held for milliseconds: one that is not to be had for so long belongs to a process that is frozen or cut off, and waiting takes a connection. */
const LOCK_TIMEOUT_MS = 15_000;
/** A transaction that says nothing for so long belongs to such a process: Postgres ends it, which frees what it had locked. */
const IDLE_IN_TRANSACTION_MS = 10_000;

export interface Pool extends Sql {
  /** Runs `work` in one transaction. No network call but the database's belongs inside. */
  transact<T>(work: (sql: Transaction) => Promise<T>): Promise<T>;
  end(): Promise<void>;
}

pg.types.setTypeParser(pg.types.builtins.INT8, (text) => Number(text));

export function openPool(connectionString: string, onError: (error: Error) => void): Pool {
  const pool = new pg.Pool({
    connectionString,
    max: CONNECTIONS_MAX,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    query_timeout: ANSWER_TIMEOUT_MS,
    keepAlive: true,
    lock_timeout: LOCK_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
    application_name: "frazil-control-plane",
    // Statements that don't depend on each other's answers go out together: a round trip wakes two processes.
    pipeline: true,
    // Each statement finds its rows through one index, whatever its values are: a plan made for them anew costs more than most statements take.
    options: "-c plan_cache_mode=force_generic_plan",
  } as pg.PoolConfig);
  pool.on("error", (error: Error & { client?: unknown }) => {
    // All that the connection ever prepared hangs on it: a hundred kilobytes of log for each one that is cut.
    delete error.client;
    onError(error);
  });
  // The pool listens to connections that are idle. One that breaks within a transaction fails its statements, and must not end this process besides.
  pool.on("connect", (client) => void client.on("error", () => undefined));
  return {
    async query(statement) {
      return (await pool.query(statement as pg.QueryConfig)).rows;
    },
    async transact(work) {
      const client = await pool.connect();
      let broken: Error | undefined;
      let committing: Promise<pg.QueryResult> | undefined;
      try {
        const begun = client.query("BEGIN");
        begun.catch(() => undefined);
        const finish = () => {
          committing ??= client.query("COMMIT");
          committing.catch(() => undefined);
        };
        const value = await work({
          query: async (statement) => (await client.query(statement as pg.QueryConfig)).rows,
          finish,
        });
        await begun;
        finish();
        // Postgres answers the COMMIT of a transaction in which a statement failed with ROLLBACK.
        if ((await committing)?.command !== "COMMIT") throw new Error("The transaction was rolled back.");
        return value;
      } catch (error) {
        // A COMMIT that is on its way rolls back by itself where a statement before it failed.
        await (committing ?? client.query("ROLLBACK")).catch((cause: Error) => {
          broken = cause;
        });
        throw error;
      } finally {
        client.release(broken);
      }
    },
    end: () => pool.end(),
  };
}
