import { execFile } from "node:child_process";
import { open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { type GuardedProcess, spawnGuarded } from "../guarded-process.ts";
import { type Account, spawnOptionsFor } from "./account.ts";

const run = promisify(execFile);

const POLL_MS = 10;
/** Long enough for crash recovery of a full write-ahead log on a slow disk. */
const READY_LIMIT_MS = 120_000;
/** How long each way of stopping may take before the next, harder one. */
const STOP_STEPS = [
  { signal: "SIGINT", limitMs: 10_000 },
  { signal: "SIGQUIT", limitMs: 5_000 },
  { signal: "SIGKILL", limitMs: 5_000 },
] as const;
const LOG_TAIL_CHARACTERS = 2_000;
const ENVIRONMENT = { PATH: "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };

export interface Postmaster {
  pid: number;
  /** Resolves to the exit code once Postgres has ended, for whatever reason. */
  exited: Promise<number>;
  stop(): Promise<void>;
}

export interface Launch {
  binaries: string;
  home: string;
  dataDir: string;
  account: Account;
}

/** Starts Postgres and waits until it takes connections. Rejects with the end of its log when it ends before that. */
export async function startPostmaster({ binaries, home, dataDir, account }: Launch): Promise<Postmaster> {
  const logFile = join(home, "postgres.log");
  await rename(logFile, `${logFile}.1`).catch(() => undefined);
  const log = await open(logFile, "w", 0o600);
  const command = [
    join(binaries, "bin", "postgres"),
    "-D",
    dataDir,
    "-c",
    `config_file=${join(home, "postgres.conf")}`,
  ];
  const options = { ...spawnOptionsFor(account), env: ENVIRONMENT, logFd: log.fd };
  const guarded = await spawnGuarded(command, options).finally(() => log.close());
  const pid = await waitUntilReady(dataDir, guarded);
  if (pid === undefined) {
    guarded.interrupt();
    throw new Error(`Postgres did not start; the end of ${logFile}:\n${await readTail(logFile)}`);
  }
  return { pid, exited: guarded.exited, stop: () => stopGuarded(guarded, pid) };
}

async function waitUntilReady(dataDir: string, guarded: GuardedProcess): Promise<number | undefined> {
  const deadlineAt = Date.now() + READY_LIMIT_MS;
  while (Date.now() < deadlineAt && !guarded.hasEnded()) {
    const found = await readPostmasterFile(dataDir);
    if (found?.ready && (await isPostmasterOf(found.pid, dataDir))) return found.pid;
    await delay(POLL_MS);
  }
  return undefined;
}

async function stopGuarded(guarded: GuardedProcess, pid: number): Promise<void> {
  guarded.interrupt();
  for (const { signal, limitMs } of STOP_STEPS) {
    if (signal !== "SIGINT") kill(pid, signal);
    const timer = new AbortController();
    const timeout = delay(limitMs, "late", { signal: timer.signal }).catch(() => "late");
    const outcome = await Promise.race([guarded.exited, timeout]);
    timer.abort();
    if (outcome !== "late") return;
  }
  throw new Error(`Postgres (process ${pid}) does not end`);
}

/** Stops a Postgres that an earlier, dead owner left running on this data. */
export async function stopLeftover(dataDir: string): Promise<number | undefined> {
  const found = await readPostmasterFile(dataDir);
  if (!found || !(await isPostmasterOf(found.pid, dataDir))) return undefined;
  for (const { signal, limitMs } of STOP_STEPS) {
    kill(found.pid, signal);
    const deadlineAt = Date.now() + limitMs;
    while (Date.now() < deadlineAt) {
      if (!(await isPostmasterOf(found.pid, dataDir))) return found.pid;
      await delay(POLL_MS);
    }
  }
  throw new Error(`a Postgres that was left running on ${dataDir} (process ${found.pid}) does not end`);
}

/** Postgres writes its process id into the first line and its state into the eighth. The file of a killed server stays behind. */
async function readPostmasterFile(dataDir: string): Promise<{ pid: number; ready: boolean } | undefined> {
  const text = await readFile(join(dataDir, "postmaster.pid"), "utf8").catch(() => undefined);
  const lines = text?.split("\n");
  const pid = Number(lines?.[0]);
  return Number.isInteger(pid) && pid > 0 ? { pid, ready: lines?.[7]?.trim() === "ready" } : undefined;
}

/** A process id may have been given to another program since: only one whose command names this data counts. */
async function isPostmasterOf(pid: number, dataDir: string): Promise<boolean> {
  const command =
    process.platform === "linux"
      ? await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")
      : await run("ps", ["-o", "command=", "-p", String(pid)]).then(
          ({ stdout }) => stdout,
          () => "",
        );
  return command.includes(dataDir);
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

async function readTail(file: string): Promise<string> {
  return (await readFile(file, "utf8").catch(() => "")).slice(-LOG_TAIL_CHARACTERS).trim();
}
