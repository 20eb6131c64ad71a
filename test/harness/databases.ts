import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { Client } from "pg";
import { inject } from "vitest";

declare module "vitest" {
  interface ProvidedContext {
    postgresUrl: string;
  }
}

export const TEMPLATE_DATABASE = "frazil_template";

export interface TestDatabase {
  url: string;
  /** Deletes the database, also when something is still connected to it. */
  drop(): Promise<void>;
}

/** Makes a migrated, empty database of its own on the Postgres of this test run. */
export async function createDatabase(): Promise<TestDatabase> {
  const server = inject("postgresUrl");
  const name = `test_${randomBytes(8).toString("hex")}`;
  await runSql(server, `CREATE DATABASE ${name} TEMPLATE ${TEMPLATE_DATABASE}`);
  return { url: withDatabase(server, name), drop: () => dropDatabase(server, name) };
}

const IN_USE = "55006";
const LEAVE_LIMIT_MS = 3_000;
const POLL_MS = 20;

/** Connections that are being closed get a moment: one that is cut instead makes its owner's process fail. */
async function dropDatabase(server: string, name: string): Promise<void> {
  const deadlineAt = performance.now() + LEAVE_LIMIT_MS;
  while (performance.now() < deadlineAt) {
    try {
      return await runSql(server, `DROP DATABASE ${name}`);
    } catch (error) {
      if ((error as { code?: string }).code !== IN_USE) throw error;
      await delay(POLL_MS);
    }
  }
  await runSql(server, `DROP DATABASE ${name} WITH (FORCE)`);
}

export function withDatabase(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}

export async function runSql(url: string, sql: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
