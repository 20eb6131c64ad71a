import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { userInfo } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { CliError, usageError } from "../cli-error.ts";
import { homePath } from "../config.ts";
import { EXIT } from "../exit-codes.ts";
import { type KeptPostgres, keepPostgres } from "./kept-postgres.ts";
import { PLANE_NODE_FLAGS } from "./plane-flags.ts";

export interface DevOptions {
  readonly home?: string | undefined;
  readonly port?: number | undefined;
  readonly json?: boolean | undefined;
}

/** What `pc dev` leaves for clients: `$FRAZIL_HOME/dev.json`, readable by its owner only. */
interface DevFile {
  readonly address: string;
  readonly token: string;
  readonly pid: number;
}

const DEFAULT_PORT = 7420;
const PORT_MAX = 65_535;
const END_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const START_MS_MAX = 60_000;
const STOP_MS_MAX = 12_000;
/** A control plane that dies is started again, with growing pauses; one that ran for a while has proven itself. */
const RESTART_FIRST_MS = 200;
const RESTART_MAX_MS = 2_000;
const PROVEN_MS = 10_000;

/** Runs an installation on this machine until it is told to end: Postgres, the control plane, and nodes as processes. Resolves to the exit code. */
export async function runDev(options: DevOptions): Promise<number> {
  let signals: Signals | undefined;
  try {
    const port = portOf(options);
    const home = resolve(options.home ?? homePath(process.env));
    mkdirSync(home, { recursive: true, mode: 0o700 });
    await refuseSecond(home);
    signals = watchSignals();
    await runUntilEnded(home, port, options, signals);
    return EXIT.ok;
  } catch (error) {
    // What is wrong with the machine or its settings is no bug of the CLI; a TypeError is one.
    if (error instanceof CliError || error instanceof TypeError) throw error;
    throw devFailed(error as Error);
  } finally {
    signals?.unwatch();
  }
}

async function runUntilEnded(
  home: string,
  port: Record<string, string>,
  options: DevOptions,
  signals: Signals,
): Promise<void> {
  const say = (line: string) => void (options.json ? undefined : process.stderr.write(`${line}\n`));
  let postgres: KeptPostgres | undefined;
  let plane: ControlPlane | undefined;
  try {
    let databaseUrl = process.env.DATABASE_URL || undefined;
    if (databaseUrl === undefined) {
      say("Starting Postgres ...");
      postgres = await keepPostgres(join(home, "postgres"), say);
      databaseUrl = postgres.url;
    }
    if (signals.received()) return;
    say("Starting the control plane ...");
    plane = superviseControlPlane(home, { ...environment(home, databaseUrl), ...port }, say);
    await serve(home, plane, postgres, options, signals);
  } catch (error) {
    // Ctrl-C in a terminal reaches initdb too, which then fails: the end that was asked for.
    if (!signals.received()) throw error;
  } finally {
    if (plane !== undefined || postgres !== undefined) say("Stopping ...");
    await plane?.stop();
    await postgres?.stop();
    removeDevFile(home);
  }
}

async function serve(
  home: string,
  plane: ControlPlane,
  postgres: KeptPostgres | undefined,
  options: DevOptions,
  signals: Signals,
): Promise<void> {
  const ends = [signals.first, plane.failed, ...(postgres === undefined ? [] : [postgres.failed])];
  try {
    const started = await Promise.race([plane.started, ...ends]);
    if (started === undefined) return;
    writeDevFile(home, { ...started, pid: process.pid });
    announce(started, options);
    await Promise.race(ends);
  } catch (error) {
    throw devFailed(error as Error, `the control plane's log is ${join(home, "control-plane.log")}`);
  }
}

async function refuseSecond(home: string): Promise<void> {
  const first = await findRunning(home);
  if (first === undefined) return;
  throw devFailed(
    new Error(`Frazil runs already: ${first.address} (process ${first.pid}, home ${home})`),
    "use it, or end it with Ctrl-C there; another --home makes a second one",
  );
}

function devFailed(cause: Error, hint?: string): CliError {
  return new CliError("dev_failed", EXIT.jobFailed, cause.message, { hint, cause });
}

interface Signals {
  /** Resolves at the first one. */
  readonly first: Promise<undefined>;
  received(): boolean;
  unwatch(): void;
}

function watchSignals(): Signals {
  const { promise: first, resolve: settle } = Promise.withResolvers<undefined>();
  let received = false;
  const receive = () => {
    received = true;
    settle(undefined);
  };
  for (const signal of END_SIGNALS) process.on(signal, receive);
  return {
    first,
    received: () => received,
    unwatch() {
      for (const signal of END_SIGNALS) process.off(signal, receive);
    },
  };
}

/** Asks the address that an earlier run left, if its process is there: a stale file says nothing. */
async function findRunning(home: string): Promise<DevFile | undefined> {
  const left = readDevFile(join(home, "dev.json"));
  if (left === undefined) return undefined;
  try {
    process.kill(left.pid, 0);
    const answer = await fetch(`${left.address}/healthz`, { signal: AbortSignal.timeout(2_000) });
    return answer.ok ? left : undefined;
  } catch {
    return undefined;
  }
}

/** Undefined when it is not there, or is no such file. */
function readDevFile(path: string): DevFile | undefined {
  try {
    return (JSON.parse(readFileSync(path, "utf8")) as DevFile | null) ?? undefined;
  } catch {
    return undefined;
  }
}

function environment(home: string, databaseUrl: string): Record<string, string> {
  const token = readKept(join(home, "token"));
  return {
    DATABASE_URL: databaseUrl,
    FRAZIL_HOME: home,
    FRAZIL_KEY: installationKey(home),
    FRAZIL_BOOTSTRAP_WORKSPACE: "default",
    FRAZIL_BOOTSTRAP_USER: userInfo().username,
    ...(token === undefined ? {} : { FRAZIL_BOOTSTRAP_TOKEN: token }),
  };
}

/** A port that was asked for must be had; the default one gives way to any free one, and is remembered. */
function portOf(options: DevOptions): Record<string, string> {
  const asked = options.port ?? portFrom(process.env.FRAZIL_PORT || undefined);
  return asked === undefined
    ? { FRAZIL_PORT: String(DEFAULT_PORT), FRAZIL_PORT_FALLBACK: "1" }
    : { FRAZIL_PORT: String(asked) };
}

function portFrom(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const port = Number(text);
  if (/^\d+$/.test(text) && port <= PORT_MAX) return port;
  throw usageError(`FRAZIL_PORT is "${text}"`, `set it to a whole number from 0 (any free port) to ${PORT_MAX}`);
}

/** The key that seals plans and secrets at rest. Lose it and what is stored can't be opened any more. */
function installationKey(home: string): string {
  const path = join(home, "key");
  const kept = process.env.FRAZIL_KEY || readKept(path);
  if (kept !== undefined) return kept;
  const key = randomBytes(32).toString("base64");
  writeKept(path, key);
  return key;
}

function readKept(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, "utf8").trim() : undefined;
}

function writeKept(path: string, text: string): void {
  writeFileSync(`${path}.new`, `${text}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

function writeDevFile(home: string, file: DevFile): void {
  writeKept(join(home, "token"), file.token);
  writeKept(join(home, "dev.json"), JSON.stringify({ address: file.address, token: file.token, pid: file.pid }));
}

/** Another `pc dev` may have written it since. */
function removeDevFile(home: string): void {
  const path = join(home, "dev.json");
  if (readDevFile(path)?.pid === process.pid) rmSync(path, { force: true });
}

interface Started {
  /** Where clients and nodes reach it. */
  readonly address: string;
  /** Where it listens. */
  readonly port: number;
  readonly token: string;
}

interface ControlPlane {
  /** Rejects when it does not come up the first time. */
  readonly started: Promise<Started>;
  /** Rejects when it can't be started at all. */
  readonly failed: Promise<never>;
  stop(): Promise<void>;
}

/** Keeps a control plane running. It ends when this process does, however that ends: they hold the two ends of a channel. */
function superviseControlPlane(home: string, env: Record<string, string>, say: (line: string) => void): ControlPlane {
  let child: ChildProcess | undefined;
  let stopping = false;
  let timer: NodeJS.Timeout | undefined;
  let overdue: NodeJS.Timeout | undefined;
  let fail: (error: Error) => void = () => undefined;
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => undefined);
  const started = new Promise<Started>((settle, reject) => {
    overdue = setTimeout(
      () => reject(new Error(`the control plane did not start within ${START_MS_MAX / 1_000} s`)),
      START_MS_MAX,
    );
    let isUp = false;
    let pause = RESTART_FIRST_MS;
    const start = () => {
      const startedAt = performance.now();
      child = spawnControlPlane(home, env);
      child.on("message", (message) => {
        clearTimeout(overdue);
        isUp = true;
        // A restart must come back at the same address.
        env.FRAZIL_PORT = String((message as Started).port);
        settle(message as Started);
      });
      child.on("exit", (code, signal) => {
        if (stopping) return;
        if (!isUp) {
          reject(
            new Error(
              `the control plane ended at its start (${signal ?? `exit code ${code}`}):\n${lastLines(join(home, "control-plane.log"))}`,
            ),
          );
          return;
        }
        pause = performance.now() - startedAt > PROVEN_MS ? RESTART_FIRST_MS : Math.min(RESTART_MAX_MS, pause * 2);
        say(`The control plane ended (${signal ?? `exit code ${code}`}); starting it again ...`);
        timer = setTimeout(start, pause);
      });
      child.on("error", fail);
    };
    start();
  });
  const stop = async () => {
    stopping = true;
    clearTimeout(timer);
    // It would keep this process from ending.
    clearTimeout(overdue);
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((settle) => child?.on("exit", settle));
    child.kill("SIGTERM");
    const force = setTimeout(() => child?.kill("SIGKILL"), STOP_MS_MAX);
    await ended;
    clearTimeout(force);
  };
  return { started, failed, stop };
}

function spawnControlPlane(home: string, env: Record<string, string>): ChildProcess {
  const bundled = import.meta.url.endsWith(".mjs");
  const entry = fileURLToPath(
    new URL(bundled ? "./control-plane.mjs" : "../../../control-plane/src/main.ts", import.meta.url),
  );
  const log = openSync(join(home, "control-plane.log"), "a", 0o600);
  try {
    // Its own process group: Ctrl-C reaches this process alone, which ends the others in order.
    return spawn(process.execPath, [...PLANE_NODE_FLAGS, entry], {
      env: { ...process.env, ...env },
      stdio: ["ignore", log, log, "ipc"],
      detached: true,
    });
  } finally {
    closeSync(log);
  }
}

function lastLines(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(-12).join("\n") : "";
}

function announce(started: Started, options: DevOptions): void {
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ address: started.address, token: started.token })}\n`);
    return;
  }
  process.stdout.write(`
Frazil runs at ${started.address}

  export FRAZIL_ADDRESS=${started.address}
  export FRAZIL_TOKEN=${started.token}

Try it:

  import polars as pl, frazil as pc

  query = pl.LazyFrame({"key": ["a", "b", "a"], "value": [1, 2, 3]}).group_by("key").agg(pl.sum("value"))
  print(query.remote(pc.ComputeContext(cpus=2, memory=2)).execute().await_result())

Ctrl-C ends it; what it did is kept.
`);
}
