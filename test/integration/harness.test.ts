import { connect } from "node:net";
import { Client } from "pg";
import { expect, it } from "vitest";
import { createDatabase, runSql } from "../harness/databases.ts";
import { redisUrl } from "../harness/redis.ts";

async function listTables(url: string): Promise<string[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const found = await client.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename");
    return found.rows.map((row) => row.tablename);
  } finally {
    await client.end();
  }
}

function sendToRedis(url: string, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1", () => socket.write(`${command}\r\n`));
    socket.once("error", reject);
    socket.once("data", (data) => {
      resolve(data.toString());
      socket.destroy();
    });
  });
}

it("gives each caller a migrated database that no other sees", async () => {
  const [first, second] = await Promise.all([createDatabase(), createDatabase()]);
  const migrated = await listTables(first.url);
  expect(migrated).toContain("_prisma_migrations");
  await runSql(first.url, "CREATE TABLE mine (v int)");
  expect(await listTables(first.url)).toContain("mine");
  expect(await listTables(second.url)).toEqual(migrated);
  await first.drop();
  await expect(listTables(first.url)).rejects.toThrow(/does not exist/);
  await second.drop();
});

it("gives a test file one real Redis", async () => {
  const url = await redisUrl();
  expect(await sendToRedis(url, "SET key value")).toBe("+OK\r\n");
  expect(await sendToRedis(await redisUrl(), "GET key")).toBe("$5\r\nvalue\r\n");
});
