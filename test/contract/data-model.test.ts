import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { applyMigrations } from "@frazil/migrations";
import { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, vi } from "vitest";
import { createDatabase, runSql, type TestDatabase, withDatabase } from "../harness/databases.ts";
import { type Column, type ForeignKey, type Index, readPrismaSchema, type Table } from "../harness/prisma-schema.ts";

const MIGRATIONS = fileURLToPath(new URL("../../migrations", import.meta.url));

let database: TestDatabase;
let client: Client;
beforeAll(async () => {
  database = await createDatabase();
  client = new Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

async function readDatabase(): Promise<Table[]> {
  const tables = await client.query<{ name: string }>(
    "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> '_prisma_migrations' ORDER BY 1",
  );
  const columns = await client.query<Column & { table: string }>(
    `SELECT c.relname AS table, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
        CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
      WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,
  );
  const indexes = await client.query<Index & { table: string; partial: boolean }>(
    `SELECT t.relname AS table, i.indisunique AS unique, i.indisprimary AS primary, i.indpred IS NOT NULL AS partial, m.amname AS method,
        ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) || CASE WHEN o.opcname = 'jsonb_path_ops' THEN ' jsonb_path_ops' ELSE '' END
          FROM generate_series(1, i.indnkeyatts) k JOIN pg_opclass o ON o.oid = i.indclass[k - 1] ORDER BY k) AS columns
      FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_am m ON m.oid = x.relam
      WHERE t.relnamespace = 'public'::regnamespace`,
  );
  const keys = await client.query<ForeignKey & { table: string }>(
    `SELECT t.relname AS table, ARRAY[a.attname::text] AS columns,
        f.relname || '(' || b.attname || ')' || CASE WHEN k.confdeltype = 'c' AND k.confupdtype = 'a' THEN ' ON DELETE CASCADE' ELSE ' otherwise' END AS references
      FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.conkey[1] JOIN pg_attribute b ON b.attrelid = f.oid AND b.attnum = k.confkey[1]
      WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace`,
  );
  const ofTable = <Row extends { table: string }>(rows: readonly Row[], name: string) =>
    rows.filter((row) => row.table === name).map(({ table: _, ...row }) => row);
  return tables.rows.map(({ name }) => ({
    name,
    columns: ofTable(columns.rows, name),
    // Prisma's schema language has no partial indexes: those are in the SQL only.
    indexes: ofTable(indexes.rows, name).flatMap(({ partial, ...index }) => (partial ? [] : [index])),
    foreignKeys: ofTable(keys.rows, name),
  }));
}

const sorted = <T>(items: readonly T[]) =>
  [...items].map((item) => JSON.stringify(item, Object.keys(item as object).sort())).sort();

describe("schema.prisma", () => {
  const declared = readPrismaSchema(readFileSync(join(MIGRATIONS, "schema.prisma"), "utf8"));

  it("names the tables of the migrated database, all of them", async () => {
    const migrated = await readDatabase();
    expect(declared.map((table) => table.name).sort()).toEqual(migrated.map((table) => table.name).sort());
    expect(declared.length).toBeGreaterThan(8);
  });

  it.each(declared.map((table) => [table.name, table] as const))(
    "says of %s what the migrated database has",
    async (name, table) => {
      const migrated = (await readDatabase()).find((one) => one.name === name);
      expect(table.columns).toEqual(migrated?.columns);
      expect(sorted(table.indexes)).toEqual(sorted(migrated?.indexes ?? []));
      expect(sorted(table.foreignKeys)).toEqual(sorted(migrated?.foreignKeys ?? []));
    },
  );

  it("would be found to differ in a type, a default, an index or a key", () => {
    const text = readFileSync(join(MIGRATIONS, "schema.prisma"), "utf8");
    const edits: [string, string][] = [
      ["revision    Int", "revision    BigInt"],
      ["@default(true)", "@default(false)"],
      ["@@index([clusterId, id])", "@@index([clusterId])"],
      ["hostname      String?", "hostname      String"],
    ];
    for (const [from, to] of edits) {
      const edited = text.replace(new RegExp(from.replace(/[()[\]?]/g, "\\$&").replace(/ +/g, "\\s+")), to);
      expect(edited).not.toBe(text);
      expect(readPrismaSchema(edited)).not.toEqual(declared);
    }
  });
});

describe("migrations", () => {
  const copies: string[] = [];
  afterEach(() => {
    vi.unstubAllEnvs();
    for (const copy of copies.splice(0)) rmSync(copy, { recursive: true });
  });

  /** Another history, beginning as ours does. */
  function copyHistory(): string {
    const copy = mkdtempSync(join(tmpdir(), "frazil-history-"));
    copies.push(copy);
    cpSync(join(MIGRATIONS, "history"), copy, { recursive: true });
    vi.stubEnv("FRAZIL_MIGRATIONS_DIR", copy);
    return copy;
  }

  async function withEmptyDatabase(use: (url: string) => Promise<void>): Promise<void> {
    const server = inject("postgresUrl");
    const name = `empty_${process.hrtime.bigint()}`;
    await runSql(server, `CREATE DATABASE ${name}`);
    try {
      await use(withDatabase(server, name));
    } finally {
      await runSql(server, `DROP DATABASE ${name} WITH (FORCE)`);
    }
  }

  it("are applied once, by however many processes at the same moment", () =>
    withEmptyDatabase(async (url) => {
      const applied = await Promise.all([1, 2, 3, 4].map(() => applyMigrations(url)));
      expect(applied.flat()).toEqual([...new Set(applied.flat())]);
      expect(applied.flat().length).toBeGreaterThan(0);
      expect(await applyMigrations(url)).toEqual([]);
    }));

  it("that were edited after they were applied are refused", async () => {
    const file = join(copyHistory(), "0001_init", "migration.sql");
    writeFileSync(file, `${readFileSync(file, "utf8")}\n-- one more remark\n`);
    await expect(applyMigrations(database.url)).rejects.toThrow("migration 0001_init was changed after it was applied");
  });

  it("of a newer release are none that an older one goes on with", async () => {
    rmSync(join(copyHistory(), "0009_stopping_nodes"), { recursive: true });
    await expect(applyMigrations(database.url)).rejects.toThrow(/upgraded by a newer release \(0009_stopping_nodes\)/);
  });

  it("that fail leave nothing of themselves, and can be put right", () =>
    withEmptyDatabase(async (url) => {
      const file = join(copyHistory(), "0001_init", "migration.sql");
      const sql = readFileSync(file, "utf8");
      writeFileSync(file, `${sql}\nSELECT * FROM no_such_table;`);
      await expect(applyMigrations(url)).rejects.toThrow(/0001_init failed: .*no_such_table/);
      writeFileSync(file, sql);
      expect(await applyMigrations(url)).toContain("0001_init");
    }));
});
