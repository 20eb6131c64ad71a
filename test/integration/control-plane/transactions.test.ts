import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPool, type Pool, type Sql } from "../../../control-plane/src/db/pool.ts";
import { createDatabase, type TestDatabase } from "../../harness/databases.ts";

let database: TestDatabase;
let pool: Pool;

beforeAll(async () => {
  database = await createDatabase();
  pool = openPool(database.url, () => undefined);
  await pool.query({ text: "CREATE TABLE numbers (n int PRIMARY KEY)" });
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

const add = (sql: Sql, n: number) => sql.query({ text: "INSERT INTO numbers VALUES ($1)", values: [n] });
const numbers = async () =>
  (await pool.query<{ n: number }>({ text: "SELECT n FROM numbers ORDER BY n" })).map(({ n }) => n);

it("a transaction whose connection is cut fails, and nothing else does", async () => {
  const cut = pool.transact(async (sql) => {
    const [own] = await sql.query<{ pid: number }>({ text: "SELECT pg_backend_pid() AS pid" });
    await pool.query({ text: "SELECT pg_terminate_backend($1, 5000)", values: [own?.pid] });
    await add(sql, 9);
  });
  await expect(cut).rejects.toThrow();
  expect(await numbers()).not.toContain(9);
});

describe("a transaction whose commit goes out with its last statements", () => {
  it("is committed when it resolves", async () => {
    await pool.transact(async (sql) => {
      const written = Promise.all([add(sql, 1), add(sql, 2)]);
      sql.finish();
      await written;
    });
    expect(await numbers()).toEqual([1, 2]);
  });

  it("leaves nothing when one of them fails, and its connection serves on", async () => {
    const broken = pool.transact(async (sql) => {
      const written = Promise.all([add(sql, 3), add(sql, 1), add(sql, 4)]);
      sql.finish();
      await written;
    });
    await expect(broken).rejects.toThrow(/duplicate key/);
    const unheard = pool.transact(async (sql) => {
      void add(sql, 5);
      add(sql, 1).catch(() => undefined);
      sql.finish();
    });
    await expect(unheard).rejects.toThrow(/rolled back/);
    expect(await numbers()).toEqual([1, 2]);
  });
});
