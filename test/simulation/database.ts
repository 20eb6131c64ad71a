import { setTimeout as delay, setImmediate as turn } from "node:timers/promises";
import { applyMigrations } from "@frazil/migrations";
import { Client, type QueryConfig } from "pg";
import type { Pool, Sql, Statement } from "../../control-plane/src/db/pool.ts";
import { runSql, withDatabase } from "../harness/databases.ts";
import type { Effect, Process, Scheduler } from "./scheduler.ts";
import { WATCHES } from "./watches.ts";

const CONNECTIONS = 12;
/** A statement that takes longer may be waiting for a lock: then Postgres is asked. */
const SUSPICIOUS_MS = 3;
/** As the product's pool sets it: transactions and waits that are older are ended by Postgres. */
const STATEMENT_TIMEOUT_MS = 60_000;
const FIRST_DAY = "2030-01-01T00:00:00Z";

/** Time is what the simulation says; and nothing that Postgres could know of earlier runs may change the order of rows. */
const SETTINGS = [
  "search_path = sim, pg_catalog",
  `sim.now = '${FIRST_DAY}'`,
  "synchronous_commit = off",
  "enable_seqscan = off",
  "enable_bitmapscan = off",
  "enable_hashagg = off",
  "plan_cache_mode = force_generic_plan",
  "deadlock_timeout = '50ms'",
];
const CLOCK = `
  CREATE SCHEMA sim;
  CREATE FUNCTION sim.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT current_setting('sim.now')::timestamptz $$;`;

/** A database whose clock is the simulation's: `now()` is found in a schema of ours before Postgres' own. */
export async function createSimulationDatabase(server: string, name: string): Promise<SimulationDatabase> {
  await runSql(server, `CREATE DATABASE ${name}`);
  const url = withDatabase(server, name);
  await runSql(url, CLOCK);
  for (const setting of SETTINGS) await runSql(server, `ALTER DATABASE ${name} SET ${setting}`);
  await applyMigrations(url);
  await runSql(url, WATCHES);
  const clients = Array.from({ length: CONNECTIONS + 1 }, () => new Client({ connectionString: url }));
  await Promise.all(clients.map((client) => client.connect()));
  const [monitor, ...rest] = clients as [Client, ...Client[]];
  const tables = await monitor.query<{ name: string }>(
    "SELECT relname AS name FROM pg_class WHERE relnamespace = 'sim'::regnamespace AND relkind = 'r' AND relname NOT LIKE '\\_%'",
  );
  const names = tables.rows.map((row) => row.name).sort();
  for (const table of names) await monitor.query(`ALTER TABLE ${table} SET (autovacuum_enabled = off)`);
  return {
    monitor,
    backends: await Promise.all(rest.map(openBackend)),
    wipe: names.map((table) => `DELETE FROM ${table}`).join("; "),
    vacuum: `VACUUM ${names.join(", ")}`,
    async close() {
      await Promise.all(clients.map((client) => client.end()));
      await runSql(server, `DROP DATABASE ${name}`);
    },
  };
}

export interface SimulationDatabase {
  readonly monitor: Client;
  readonly backends: readonly Backend[];
  readonly wipe: string;
  readonly vacuum: string;
  close(): Promise<void>;
}

interface Backend {
  readonly client: Client;
  readonly pid: number;
  /** The time that it was last told. */
  clockMs: number;
  isTaken: boolean;
}

async function openBackend(client: Client): Promise<Backend> {
  const { rows } = await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
  return { client, pid: (rows[0] as { pid: number }).pid, clockMs: 0, isTaken: false };
}

interface Transaction {
  readonly process: Process;
  readonly backend: Backend;
  /** Statements that were sent and not yet executed: one connection does them in order. */
  readonly queue: object[];
  lastMs: number;
  /** Why Postgres or the network ended it. */
  broken: Error | undefined;
  isOver: boolean;
}

interface Waiter {
  readonly backend: Backend;
  readonly settled: Promise<unknown>;
  isSettled(): boolean;
  /** Lets the process go on with what the statement answered. */
  proceed(): Promise<void>;
  readonly sinceMs: number;
}

/** The database as the processes of one run see it. */
export interface World {
  poolFor(process: Process): Pool;
  /** Lets statements go on whose lock was freed. After every step. */
  settleWaiters(): Promise<void>;
  /** How many of the next statements lose their connection. */
  cutConnections(count: number): void;
  ask<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** What Postgres itself complained about: deadlocks. */
  readonly complaints: string[];
  stats: { statements: number; waits: number };
  close(): Promise<void>;
}

interface State {
  readonly database: SimulationDatabase;
  readonly scheduler: Scheduler;
  readonly open: Set<Transaction>;
  readonly waiters: Set<Waiter>;
  cuts: number;
  /** Roll-backs that are under way: nothing goes on before them. */
  readonly chores: Promise<void>[];
  readonly complaints: string[];
  readonly stats: { statements: number; waits: number };
}

export async function openWorld(database: SimulationDatabase, scheduler: Scheduler): Promise<World> {
  const state: State = {
    database,
    scheduler,
    open: new Set(),
    waiters: new Set(),
    cuts: 0,
    chores: [],
    complaints: [],
    stats: { statements: 0, waits: 0 },
  };
  await database.monitor.query(database.wipe);
  for (const backend of database.backends) backend.isTaken = false;
  return {
    poolFor: (process) => poolFor(state, process),
    settleWaiters: () => settleWaiters(state),
    cutConnections(count) {
      state.cuts = count;
    },
    async ask<Row>(text: string, values: readonly unknown[] = []) {
      const { monitor } = database;
      await monitor.query(`SET sim.now = '${new Date(scheduler.nowMs()).toISOString()}'`);
      return (await monitor.query(text, [...values])).rows as Row[];
    },
    complaints: state.complaints,
    stats: state.stats,
    async close() {
      for (const transaction of state.open) await rollBack(state, transaction);
      for (const waiter of state.waiters) await waiter.proceed();
      await Promise.all(state.chores.splice(0));
    },
  };
}

function poolFor(state: State, process: Process): Pool {
  const { scheduler } = state;
  process.onKill.push(() => {
    for (const transaction of state.open)
      if (transaction.process === process) state.chores.push(rollBack(state, transaction));
  });
  return {
    query: (statement) =>
      new Promise((resolve, reject) => {
        const effect = () => runAlone(state, process, statement, resolve as never, reject);
        scheduler.put(process, nameOf(statement), effect, () => freeBackend(state) !== undefined);
      }),
    async transact(work) {
      const transaction = await begin(state, process);
      let committing: Promise<unknown> | undefined;
      try {
        const finish = () => {
          committing ??= inTransaction(state, transaction, { text: "COMMIT" });
          committing.catch(() => undefined);
        };
        const value = await work({ ...sqlOf(state, transaction), finish });
        finish();
        await committing;
        transaction.isOver = true;
        return value;
      } catch (error) {
        if (!transaction.isOver)
          await (committing ?? inTransaction(state, transaction, { text: "ROLLBACK" })).catch(() => undefined);
        throw error;
      }
    },
    async end() {},
  };
}

function sqlOf(state: State, transaction: Transaction): Sql {
  return { query: (statement) => inTransaction(state, transaction, statement) as never };
}

function freeBackend(state: State): Backend | undefined {
  return state.database.backends.find((backend) => !backend.isTaken);
}

const LOST = () => new Error("Connection terminated unexpectedly");

/** A statement of its own. Its connection may be cut before or after it took effect. */
async function runAlone(
  state: State,
  _process: Process,
  statement: Statement,
  resolve: (rows: unknown[]) => void,
  reject: (error: Error) => void,
): Promise<Effect> {
  const cut = takeCut(state);
  if (cut === "before") return { answer: () => reject(LOST()) };
  const backend = freeBackend(state) as Backend;
  backend.isTaken = true;
  return execute(state, backend, statement, (outcome) => {
    backend.isTaken = false;
    if (cut === "after") return () => reject(LOST());
    return outcome instanceof Error ? () => reject(outcome) : () => resolve(outcome);
  });
}

function takeCut(state: State): "before" | "after" | undefined {
  if (state.cuts === 0) return undefined;
  state.cuts -= 1;
  return state.scheduler.random.chance(0.5) ? "before" : "after";
}

function begin(state: State, process: Process): Promise<Transaction> {
  const { scheduler } = state;
  return new Promise((resolve, reject) => {
    const effect = async (): Promise<Effect> => {
      if (takeCut(state) !== undefined) return { answer: () => reject(LOST()) };
      const backend = freeBackend(state) as Backend;
      backend.isTaken = true;
      const transaction: Transaction = {
        process,
        backend,
        queue: [],
        lastMs: scheduler.nowMs(),
        broken: undefined,
        isOver: false,
      };
      state.open.add(transaction);
      await tellTime(state, backend);
      await backend.client.query("BEGIN");
      return { answer: () => resolve(transaction) };
    };
    scheduler.put(process, "BEGIN", effect, () => freeBackend(state) !== undefined);
  });
}

function inTransaction(state: State, transaction: Transaction, statement: Statement): Promise<unknown[]> {
  const { scheduler } = state;
  const { process, queue, backend } = transaction;
  return new Promise((resolve, reject) => {
    const place = {};
    queue.push(place);
    const effect = async (): Promise<Effect> => {
      const isLast = statement.text === "COMMIT" || statement.text === "ROLLBACK";
      const cut = transaction.broken === undefined ? takeCut(state) : undefined;
      if (cut === "before") await breakOff(state, transaction, LOST());
      const { broken } = transaction;
      if (broken !== undefined) {
        queue.shift();
        return { answer: () => reject(broken) };
      }
      transaction.lastMs = scheduler.nowMs();
      return execute(state, backend, statement, (outcome) => {
        queue.shift();
        if (isLast) release(state, transaction);
        else if (cut === "after" || !process.isAlive) state.chores.push(breakOff(state, transaction, LOST()));
        if (cut === "after") return () => reject(LOST());
        return outcome instanceof Error ? () => reject(outcome) : () => resolve(outcome);
      });
    };
    scheduler.put(process, nameOf(statement), effect, () => queue[0] === place);
  });
}

function release(state: State, transaction: Transaction): void {
  if (!state.open.delete(transaction)) return;
  transaction.backend.isTaken = false;
}

async function breakOff(state: State, transaction: Transaction, error: Error): Promise<void> {
  transaction.broken = error;
  await rollBack(state, transaction);
}

/** The connection is gone: Postgres rolls back. A statement that waits for a lock goes on waiting first. */
async function rollBack(state: State, transaction: Transaction): Promise<void> {
  if (!state.open.has(transaction)) return;
  const isWaiting = [...state.waiters].some((waiter) => waiter.backend === transaction.backend);
  if (isWaiting) return;
  state.open.delete(transaction);
  await transaction.backend.client.query("ROLLBACK");
  transaction.backend.isTaken = false;
}

async function tellTime(state: State, backend: Backend): Promise<void> {
  const nowMs = state.scheduler.nowMs();
  if (backend.clockMs === nowMs) return;
  backend.clockMs = nowMs;
  await backend.client.query(`SET sim.now = '${new Date(nowMs).toISOString()}'`);
}

/** Runs a statement until it is done or waits for another transaction. One at a time, so that the order of everything is the scheduler's. */
async function execute(
  state: State,
  backend: Backend,
  statement: Statement,
  finish: (outcome: unknown[] | Error) => () => void,
): Promise<Effect> {
  state.stats.statements += 1;
  const isAlone = ![...state.open].some((one) => one.backend === backend);
  if (isAlone) await tellTime(state, backend);
  const done: Promise<unknown[] | Error> = backend.client.query(prepared(statement)).then(
    (result) => result.rows as unknown[],
    (error: Error) => {
      if ((error as { code?: string }).code === "40P01") state.complaints.push(`deadlock in ${nameOf(statement)}`);
      return error;
    },
  );
  const othersOpen = state.waiters.size > 0 || state.open.size > (isAlone ? 0 : 1);
  if (!othersOpen) return { answer: finish(await done) };
  let isDone = false;
  const settled = done.then((outcome) => {
    isDone = true;
    return outcome;
  });
  const isSettled = () => isDone;
  if (!(await isWaiting(state, backend, settled, isSettled))) return { answer: finish(await settled) };
  return waitFor(state, backend, settled, isSettled, finish);
}

function waitFor(
  state: State,
  backend: Backend,
  settled: Promise<unknown[] | Error>,
  isSettled: () => boolean,
  finish: (outcome: unknown[] | Error) => () => void,
): Effect {
  state.stats.waits += 1;
  const { promise, resolve } = Promise.withResolvers<() => void>();
  const waiter: Waiter = {
    backend,
    settled,
    isSettled,
    async proceed() {
      const outcome = await settled;
      state.waiters.delete(waiter);
      resolve(finish(outcome));
      await turn();
    },
    sinceMs: state.scheduler.nowMs(),
  };
  state.waiters.add(waiter);
  return { waits: promise };
}

const names = new Map<string, string>();

/** Every statement is planned once per connection, also those that the product leaves unnamed: a run executes hundreds of them. */
function prepared({ name, text, values = [] }: Statement): QueryConfig {
  const given = name ?? names.get(text) ?? `unnamed ${names.size}`;
  if (name === undefined) names.set(text, given);
  return { name: given, text, values: [...values] };
}

/** Whether a running statement waits for a lock; waits itself until that is clear. */
async function isWaiting(
  state: State,
  backend: Backend,
  settled: Promise<unknown>,
  isDone: () => boolean,
): Promise<boolean> {
  for (;;) {
    await Promise.race([settled, delay(SUSPICIOUS_MS)]);
    if (isDone()) return false;
    const { rows } = await state.database.monitor.query("SELECT cardinality(pg_blocking_pids($1)) AS n", [backend.pid]);
    if (isDone()) return false;
    if ((rows[0] as { n: number }).n > 0) return true;
  }
}

async function settleWaiters(state: State): Promise<void> {
  await Promise.all(state.chores.splice(0));
  for (const waiter of state.waiters) {
    if (!(await isWaiting(state, waiter.backend, waiter.settled, waiter.isSettled))) await waiter.proceed();
  }
  const tooOldMs = state.scheduler.nowMs() - STATEMENT_TIMEOUT_MS;
  for (const waiter of state.waiters) {
    if (waiter.sinceMs >= tooOldMs) continue;
    await state.database.monitor.query("SELECT pg_cancel_backend($1)", [waiter.backend.pid]);
    await waiter.proceed();
  }
  for (const transaction of state.open) {
    if (!transaction.process.isAlive) await rollBack(state, transaction);
    else if (transaction.lastMs < tooOldMs && ![...state.waiters].some((one) => one.backend === transaction.backend))
      await breakOff(state, transaction, new Error("terminating connection due to idle-in-transaction timeout"));
  }
}

export function nameOf(statement: Statement): string {
  return statement.name ?? statement.text.replace(/\s+/g, " ").slice(0, 60);
}
