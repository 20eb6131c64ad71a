import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type EmbeddedPostgres, eraseEmbeddedPostgres, startEmbeddedPostgres } from "./embedded-postgres.ts";

const MODULE = fileURLToPath(new URL("./embedded-postgres.ts", import.meta.url));
const GONE_LIMIT_MS = 10_000;
const POLL_MS = 20;
const isRoot = process.getuid?.() === 0;

const roots: string[] = [];

/** A directory below a folder that only its owner can enter, as `mktemp -d` makes it. */
function makeDir(): string {
  const root = mkdtempSync(join(tmpdir(), "frazil-postgres-test-"));
  roots.push(root);
  return join(root, "postgres");
}

afterAll(async () => {
  for (const root of roots) {
    await eraseEmbeddedPostgres(join(root, "postgres"));
    rmSync(root, { recursive: true });
  }
});

function homeOf(dir: string): string {
  return (JSON.parse(readFileSync(join(dir, "postgres.json"), "utf8")) as { home: string }).home;
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: "array" })).rows.flat();
  } finally {
    await client.end();
  }
}

async function waitUntilGone(pid: number): Promise<void> {
  const deadlineAt = Date.now() + GONE_LIMIT_MS;
  while (isAlive(pid)) {
    if (Date.now() > deadlineAt) throw new Error(`process ${pid} still lives`);
    await delay(POLL_MS);
  }
}

/** A process that ended and that its parent has not asked about yet still answers to signals: the system's table tells. */
function isAlive(pid: number): boolean {
  if (process.platform === "linux") return (readStat(pid)?.state ?? "Z") !== "Z";
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function readStat(pid: number): { state: string; parent: number } | undefined {
  const file = `/proc/${pid}/stat`;
  if (!existsSync(file)) return undefined;
  const line = readFileSync(file, "utf8");
  const [state = "", parent] = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return { state, parent: Number(parent) };
}

/** Starts Postgres from a Node process of its own, so that this process can be killed. */
async function startInChild(dir: string) {
  const script = `
    const { startEmbeddedPostgres } = await import(${JSON.stringify(MODULE)});
    const { url, pid } = await startEmbeddedPostgres({ dir: ${JSON.stringify(dir)} });
    console.log(JSON.stringify({ url, pid }));
    setInterval(() => {}, 60_000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = await once(createInterface(child.stdout), "line");
  const { url, pid } = JSON.parse(line) as { url: string; pid: number };
  return { child, url, pid };
}

describe("one data directory", () => {
  const dir = makeDir();
  let postgres: EmbeddedPostgres;
  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({ dir });
  });
  afterAll(() => postgres.stop());

  it("serves a UTF-8 database in code point order that keeps commits durable", async () => {
    expect(await query(postgres.url, "SELECT current_database()::text")).toEqual(["frazil"]);
    const sorted = await query(
      postgres.url,
      "SELECT v FROM (VALUES ('b'), ('a'), ('B'), ('é'), ('z')) t(v) ORDER BY v",
    );
    expect(sorted).toEqual(["B", "a", "b", "z", "é"]);
    for (const [name, value] of [
      ["server_encoding", "UTF8"],
      ["fsync", "on"],
      ["synchronous_commit", "on"],
      ["full_page_writes", "on"],
    ]) {
      expect(await query(postgres.url, `SHOW ${name}`)).toEqual([value]);
    }
  });

  it("asks for its password", async () => {
    const url = new URL(postgres.url);
    expect(url.password).toHaveLength(48);
    url.password = "wrong";
    await expect(query(url.href, "SELECT 1")).rejects.toThrow(/password authentication failed/);
  });

  it("keeps the password in a file that only its owner reads", () => {
    const file = join(dir, "postgres.json");
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, "utf8")).toContain(new URL(postgres.url).password);
  });

  it("refuses a second start while the first one lives, and says which process holds it", async () => {
    await expect(startEmbeddedPostgres({ dir })).rejects.toThrow(`is in use by process ${process.pid}`);
    expect(await query(postgres.url, "SELECT 1")).toEqual([1]);
  });

  it("keeps its data, port and password over a stop and a start", async () => {
    await query(postgres.url, "CREATE TABLE kept (v int)");
    await query(postgres.url, "INSERT INTO kept VALUES (7)");
    const before = postgres;
    await before.stop();
    expect(isAlive(before.pid)).toBe(false);
    expect(await before.exited).toBe(0);
    postgres = await startEmbeddedPostgres({ dir });
    expect(postgres.url).toBe(before.url);
    expect(await query(postgres.url, "SELECT v FROM kept")).toEqual([7]);
  });

  it("loses no commit when the server is killed", async () => {
    await query(postgres.url, "CREATE TABLE counted (v int)");
    const client = new Client({ connectionString: postgres.url });
    client.on("error", () => undefined);
    await client.connect();
    let committed = 0;
    for (; committed < 50; committed += 1) await client.query("INSERT INTO counted VALUES ($1)", [committed]);
    process.kill(postgres.pid, "SIGKILL");
    await postgres.exited;
    await postgres.stop();
    postgres = await startEmbeddedPostgres({ dir });
    expect(await query(postgres.url, "SELECT count(*)::int, max(v) FROM counted")).toEqual([committed, committed - 1]);
  });
});

describe("a process that is killed", () => {
  it("takes its Postgres with it, and the next start finds the data", async () => {
    const dir = makeDir();
    const first = await startInChild(dir);
    await query(first.url, "CREATE TABLE kept AS SELECT 1 AS v");
    first.child.kill("SIGKILL");
    await waitUntilGone(first.pid);
    const second = await startEmbeddedPostgres({ dir });
    expect(await query(second.url, "SELECT v FROM kept")).toEqual([1]);
    await second.stop();
  });

  it.runIf(process.platform === "linux")(
    "may leave its Postgres behind: the next start ends that one first",
    async () => {
      const dir = makeDir();
      const first = await startInChild(dir);
      const guard = readStat(first.pid)?.parent ?? 0;
      process.kill(guard, "SIGKILL");
      first.child.kill("SIGKILL");
      await once(first.child, "exit");
      const lines: string[] = [];
      const second = await startEmbeddedPostgres({ dir, log: (line) => lines.push(line) });
      expect(lines[0]).toBe(`stopped the Postgres that an earlier run left behind (process ${first.pid})`);
      expect(isAlive(first.pid)).toBe(false);
      expect(await query(second.url, "SELECT 1")).toEqual([1]);
      await second.stop();
    },
  );
});

describe("a port that is asked for", () => {
  it("is used when it is free and refused when it is not", async () => {
    const [first, second] = [makeDir(), makeDir()];
    const postgres = await startEmbeddedPostgres({ dir: first });
    await expect(startEmbeddedPostgres({ dir: second, port: postgres.port })).rejects.toThrow(
      `port ${postgres.port} is in use`,
    );
    await postgres.stop();
    const other = await startEmbeddedPostgres({ dir: second, port: postgres.port });
    expect(other.port).toBe(postgres.port);
    await other.stop();
  });
});

describe.skipIf(!isRoot)("as root (skipped for ordinary users: only root runs Postgres as someone else)", () => {
  it("puts the data of a directory below a closed folder where the Postgres user can go", async () => {
    const dir = makeDir();
    const postgres = await startEmbeddedPostgres({ dir });
    const home = homeOf(dir);
    expect(existsSync(join(dir, "data"))).toBe(false);
    const data = statSync(join(home, "data"));
    expect(data.uid).not.toBe(0);
    expect(data.mode & 0o777).toBe(0o700);
    await postgres.stop();
    await eraseEmbeddedPostgres(dir);
    expect(existsSync(home)).toBe(false);
  });

  it("keeps the data in the directory itself when the Postgres user can enter it", async () => {
    const root = mkdtempSync(join(tmpdir(), "frazil-postgres-test-"));
    roots.push(root);
    chmodSync(root, 0o755);
    const dir = join(root, "postgres");
    const postgres = await startEmbeddedPostgres({ dir });
    expect(existsSync(join(dir, "data", "PG_VERSION"))).toBe(true);
    await postgres.stop();
  });

  it("removes the data of temporary directories that are gone, and of no others", async () => {
    const [gone, kept, next] = [makeDir(), makeDir(), makeDir()];
    const homes = new Map<string, string>();
    for (const dir of [gone, kept]) {
      await (await startEmbeddedPostgres({ dir })).stop();
      homes.set(dir, homeOf(dir));
    }
    const elsewhere = mkdtempSync(join(dirname(homes.get(gone) as string), "frazil-test-elsewhere-"));
    writeFileSync(join(elsewhere, "made-for"), "/mnt/a-disk-that-is-not-mounted/frazil");
    rmSync(gone, { recursive: true });
    try {
      await (await startEmbeddedPostgres({ dir: next })).stop();
      expect(existsSync(homes.get(gone) as string)).toBe(false);
      expect([homes.get(kept) as string, elsewhere].map((path) => existsSync(path))).toEqual([true, true]);
    } finally {
      rmSync(elsewhere, { recursive: true });
    }
  });

  it("starts with no data when the directory was deleted and made again", async () => {
    const dir = makeDir();
    const first = await startEmbeddedPostgres({ dir });
    await query(first.url, "CREATE TABLE old (v int)");
    await first.stop();
    rmSync(dir, { recursive: true });
    mkdirSync(dir);
    const second = await startEmbeddedPostgres({ dir });
    expect(await query(second.url, "SELECT to_regclass('old')::text")).toEqual([null]);
    await second.stop();
  });
});
