import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, chown, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { Client } from "pg";
import { type Account, chooseAccount, spawnOptionsFor } from "./postgres/account.ts";
import { prepareBinaries } from "./postgres/binaries.ts";
import { claim } from "./postgres/claim.ts";
import { noteMadeFor, removeForsaken } from "./postgres/forsaken.ts";
import {
  eraseHome,
  findCopiesDir,
  findHome,
  makeDirectory,
  newState,
  readState,
  type State,
  writeState,
} from "./postgres/home.ts";
import { type Launch, type Postmaster, startPostmaster, stopLeftover } from "./postgres/postmaster.ts";
import { renderSettings } from "./postgres/settings.ts";

const run = promisify(execFile);

const SUPERUSER = "frazil";
const DATABASE = "frazil";
const INITDB_LIMIT_MS = 120_000;
const CONNECT_LIMIT_MS = 10_000;
/** A start may fail for a moment: the chosen port was taken meanwhile, or the processes of a killed server are still going. */
const START_ATTEMPTS_MAX = 5;
const START_RETRY_MS = 300;

export interface EmbeddedPostgresOptions {
  /** Where data (or the way to it), password and port are kept. Made when it does not exist. */
  dir: string;
  /** Default: the port of the last start if it is free, else any free one. */
  port?: number;
  log?: (line: string) => void;
}

export interface EmbeddedPostgres {
  url: string;
  port: number;
  pid: number;
  /** Resolves to the exit code once Postgres has ended, whether or not it was asked to. */
  exited: Promise<number>;
  stop(): Promise<void>;
}

/**
 * Starts a real Postgres on 127.0.0.1 and makes its data on first use. It ends with this process, in whatever way that ends.
 * Rejects when another living process holds `dir`. As root, Postgres runs as another user, and its data lies where that user can go.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const dir = await makeDirectory(options.dir);
  const log = options.log ?? (() => undefined);
  const known = await readState(dir);
  const account = await chooseAccount(join(known?.home ?? dir, "data"));
  const home = await findHome(dir, account, known);
  const release = await claim(join(home, "postgres.lock"), `the Postgres data of ${dir}`);
  try {
    const state = await openData({ dir, home, account, log });
    const { port, postmaster } = await startOnFreePort(state.launch, options.port, state.port);
    await writeState(dir, { ...state.saved, port });
    const url = `postgres://${SUPERUSER}:${state.saved.password}@127.0.0.1:${port}/${DATABASE}`;
    await ensureDatabase(url).catch(async (error) => {
      await postmaster.stop();
      throw error;
    });
    log(`Postgres runs on 127.0.0.1:${port} (process ${postmaster.pid}), data in ${state.launch.dataDir}`);
    const stop = async () => {
      await postmaster.stop();
      await release();
    };
    return { url, port, pid: postmaster.pid, exited: postmaster.exited, stop };
  } catch (error) {
    await release();
    throw error;
  }
}

/** Deletes the data that `startEmbeddedPostgres` keeps for `dir`, if any. Rejects while a living process holds it. */
export async function eraseEmbeddedPostgres(dir: string): Promise<void> {
  const home = (await readState(dir))?.home ?? dir;
  if (!existsSync(home)) return;
  const release = await claim(join(home, "postgres.lock"), `the Postgres data of ${dir}`);
  try {
    await stopLeftover(join(home, "data"));
    await eraseHome(dir);
  } finally {
    await release();
  }
}

interface Place {
  dir: string;
  home: string;
  account: Account;
  log: (line: string) => void;
}

/** Brings data, password and binaries into place. Reads the state again: until the claim, another process may have written it. */
async function openData({
  dir,
  home,
  account,
  log,
}: Place): Promise<{ launch: Launch; saved: State; port: number | undefined }> {
  const dataDir = join(home, "data");
  const leftover = await stopLeftover(dataDir);
  if (leftover !== undefined) log(`stopped the Postgres that an earlier run left behind (process ${leftover})`);

  const binaries = await prepareBinaries(account, await findCopiesDir(account, home));
  const launch = { binaries, home, dataDir, account };
  const known = await readState(dir);
  if (known && existsSync(dataDir)) return { launch, saved: known, port: known.port };

  // Data without a password: it belonged to a directory of the same name that was deleted, or its making was interrupted.
  if (existsSync(dataDir)) {
    log(`removing ${dataDir}: the directory it was made for, ${dir}, was deleted since`);
    await rm(dataDir, { recursive: true });
  }
  if (known) log(`${dataDir} is gone: starting with no data`);
  const saved = newState(home === dir ? undefined : home);
  await makeData(launch, saved.password);
  await writeState(dir, saved);
  if (home !== dir) {
    await noteMadeFor(home, dir);
    log(`the Postgres user cannot enter ${dir}: its data is in ${home}`);
    await removeForsaken(home, log).catch((error) => log(`could not remove forsaken data: ${error.message}`));
  }
  return { launch, saved, port: undefined };
}

/** The data appears under its name only when it is complete. */
async function makeData({ binaries, home, dataDir, account }: Launch, password: string): Promise<void> {
  const draft = `${dataDir}.new`;
  const passwordFile = join(home, `initdb-password.${process.pid}`);
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { mode: 0o700 });
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (account) await Promise.all([draft, passwordFile].map((path) => chown(path, account.uid, account.gid)));
  const encoding = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
  const access = [`--username=${SUPERUSER}`, `--pwfile=${passwordFile}`, "--auth=scram-sha-256"];
  try {
    await run(join(binaries, "bin", "initdb"), ["-D", draft, "--no-instructions", ...access, ...encoding], {
      ...spawnOptionsFor(account),
      env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
      timeout: INITDB_LIMIT_MS,
    });
    await rename(draft, dataDir);
  } finally {
    await rm(passwordFile, { force: true });
    await rm(draft, { recursive: true, force: true });
  }
}

/** Tries the wanted port, or the last one and then any free one. */
async function startOnFreePort(
  launch: Launch,
  wanted: number | undefined,
  last: number | undefined,
): Promise<{ port: number; postmaster: Postmaster }> {
  if (wanted !== undefined && !(await isFree(wanted))) throw new Error(`port ${wanted} is in use`);
  for (let attempt = 1; ; attempt += 1) {
    const port = wanted ?? (last !== undefined && (await isFree(last)) ? last : await findFreePort());
    await writeFile(join(launch.home, "postgres.conf"), renderSettings(port), { mode: 0o644 });
    await chmod(join(launch.home, "postgres.conf"), 0o644);
    try {
      return { port, postmaster: await startPostmaster(launch) };
    } catch (error) {
      if (attempt === START_ATTEMPTS_MAX) throw error;
      await delay(START_RETRY_MS);
    }
  }
}

async function isFree(port: number): Promise<boolean> {
  return listenBriefly(port).then(
    () => true,
    () => false,
  );
}

function findFreePort(): Promise<number> {
  return listenBriefly(0);
}

function listenBriefly(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : port));
    });
  });
}

/** initdb makes no database of our name. */
async function ensureDatabase(url: string): Promise<void> {
  const maintenance = new URL(url);
  maintenance.pathname = "/postgres";
  const client = new Client({ connectionString: maintenance.href, connectionTimeoutMillis: CONNECT_LIMIT_MS });
  await client.connect();
  try {
    const found = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [DATABASE]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}
