import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eraseEmbeddedPostgres, startEmbeddedPostgres } from "@frazil/cli/dev/embedded-postgres";
import { runSql, type TestDatabase, withDatabase } from "./databases.ts";

/** For Postgres and its write-ahead log, with room for some work. */
const DISK = "400m";
const PIECE_BYTES = 1024 * 1024;

/** A real Postgres of a test's own, to which bad things may happen. */
export interface OwnPostgres {
  readonly url: string;
  readonly database: TestDatabase;
  /** Why its disk can't be filled here; undefined when it can. */
  readonly noDisk: string | undefined;
  /** All of its processes stop answering, and hold their connections. */
  freeze(): void;
  thaw(): void;
  /** Its file system has no room left. */
  fillDisk(): void;
  clearDisk(): void;
  stop(): Promise<void>;
}

export async function startOwnPostgres(): Promise<OwnPostgres> {
  const folder = mkdtempSync(join(tmpdir(), "frazil-own-postgres-"));
  // Postgres may run as another user, who must be able to come here.
  execFileSync("chmod", ["755", folder]);
  const disk = join(folder, "disk");
  mkdirSync(disk);
  const noDisk = mountSmall(disk);
  const postgres = await startEmbeddedPostgres({ dir: join(disk, "postgres") });
  const name = `test_${randomBytes(8).toString("hex")}`;
  await runSql(postgres.url, `CREATE DATABASE ${name}`);
  const ballast = join(disk, "ballast");
  return {
    url: postgres.url,
    // It goes with its server.
    database: { url: withDatabase(postgres.url, name), drop: async () => undefined },
    noDisk,
    freeze: () => signalAll(postgres.pid, "SIGSTOP"),
    thaw: () => signalAll(postgres.pid, "SIGCONT"),
    fillDisk() {
      const piece = Buffer.alloc(PIECE_BYTES, 1);
      writeFileSync(ballast, "");
      for (let free = freeBytes(disk); free > 0; free = freeBytes(disk))
        writeFileSync(ballast, piece.subarray(0, free), { flag: "a" });
    },
    clearDisk: () => truncateSync(ballast, 0),
    async stop() {
      await postgres.stop();
      await eraseEmbeddedPostgres(join(disk, "postgres"));
      if (noDisk === undefined) execFileSync("umount", [disk]);
      rmSync(folder, { recursive: true });
    },
  };
}

function mountSmall(disk: string): string | undefined {
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${DISK},mode=755`, "tmpfs", disk], { stdio: "pipe" });
    return undefined;
  } catch (error) {
    return `no file system of a small size can be mounted here: ${String((error as { stderr?: Buffer }).stderr).trim()}`;
  }
}

function freeBytes(disk: string): number {
  const { bavail, bsize } = statfsSync(disk);
  return bavail * bsize;
}

/** The first process starts no other while it is stopped. */
function signalAll(pid: number, signal: "SIGSTOP" | "SIGCONT"): void {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").map(Number);
  for (const one of signal === "SIGSTOP" ? [pid, ...children] : [...children, pid]) process.kill(one, signal);
}
