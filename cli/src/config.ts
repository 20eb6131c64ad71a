import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { CliError, usageError } from "./cli-error.ts";
import { EXIT } from "./exit-codes.ts";

/** Where the server is, and the token for it. */
export interface Settings {
  readonly address: string;
  readonly token: string;
  /** Where they were found, in words. */
  readonly source: string;
}

interface Given {
  readonly address?: string | undefined;
  readonly token?: string | undefined;
}
type Env = Readonly<Record<string, string | undefined>>;

/** Options first, then the environment, then the file that `login` writes, then the one of a `pc dev` on this machine. */
export function loadSettings(env: Env, given: Given): Settings {
  const address = given.address ?? (env.FRAZIL_ADDRESS || undefined);
  const token = given.token ?? (env.FRAZIL_TOKEN || undefined);
  const source = given.address !== undefined || given.token !== undefined ? "options" : "environment";
  if (address !== undefined && token !== undefined) return { address: checkAddress(address), token, source };
  const files = [configPath(env), devPath(env)];
  for (const path of files) {
    const found = readSettings(path);
    if (found === undefined) continue;
    // One half given alone replaces that half: another token for the same address, say.
    const mixed = address !== undefined || token !== undefined ? `${source} and ${path}` : path;
    return { address: checkAddress(address ?? found.address), token: token ?? found.token, source: mixed };
  }
  const missing = [
    ...(address === undefined ? ["FRAZIL_ADDRESS"] : []),
    ...(token === undefined ? ["FRAZIL_TOKEN"] : []),
  ];
  const isAre = missing.length > 1 ? "are" : "is";
  throw notConfigured(
    `no Frazil server is configured: ${missing.join(" and ")} ${isAre} not set, and there is neither ${files.join(" nor ")}`,
    "start a server on this machine with `pc dev`, or log in to one with `pc login ADDRESS`, or set FRAZIL_ADDRESS and FRAZIL_TOKEN",
  );
}

export function configPath(env: Env): string {
  const home = env.HOME || homedir();
  return env.FRAZIL_CONFIG ? expandHome(env.FRAZIL_CONFIG, home) : join(home, ".config", "frazil", "config.json");
}

/** `$FRAZIL_HOME`, or `~/.frazil`: where `pc dev` keeps its things. */
export function homePath(env: Env): string {
  const home = env.HOME || homedir();
  return env.FRAZIL_HOME ? expandHome(env.FRAZIL_HOME, home) : join(home, ".frazil");
}

function devPath(env: Env): string {
  return join(homePath(env), "dev.json");
}

function expandHome(path: string, home: string): string {
  return path === "~" || path.startsWith("~/") ? join(home, path.slice(1)) : path;
}

/** An address without a slash at its end. */
export function checkAddress(address: string): string {
  if (!/^https?:\/\/[^\s/]/.test(address) || !URL.canParse(address)) {
    throw usageError(`"${address}" is not an address of a Frazil server`, "it looks like https://frazil.example.com");
  }
  return address.replace(/\/+$/, "");
}

/** Writes the config file in one step, readable by its owner only. Resolves to its path. */
export function writeSettings(env: Env, settings: { address: string; token: string }): string {
  const path = configPath(env);
  const temporary = `${path}.${process.pid}.new`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    writeFileSync(temporary, `${JSON.stringify(settings)}\n`, { mode: 0o600 });
    chmodSync(temporary, 0o600);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw notConfigured(`${path} could not be written: ${(error as Error).message}`);
  }
  return path;
}

function readSettings(path: string): { address: string; token: string } | undefined {
  const content = readIfThere(path);
  if (content === undefined) return undefined;
  const settings = parseObject(content);
  const { address, token } = settings ?? {};
  if (typeof address !== "string" || typeof token !== "string" || address === "" || token === "") {
    throw notConfigured(
      `${path} is not a config file of the form {"address": ..., "token": ...}`,
      "write it again with `pc login ADDRESS`, or delete it",
    );
  }
  return { address, token };
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw notConfigured(`${path} could not be read: ${(error as Error).message}`);
  }
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function notConfigured(detail: string, hint?: string): CliError {
  return new CliError("not_configured", EXIT.noServer, detail, { hint });
}
