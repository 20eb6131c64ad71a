import { isUtf8 } from "node:buffer";
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
/** What can be sent in a header and is no white space. */
const TOKEN = /^[\x21-\x7e]+$/;
const REWRITE_HINT = "write it again with `pc login ADDRESS`, or delete it";

type Env = Readonly<Record<string, string | undefined>>;

/** Options first, then the environment, then the file that `login` writes, then the one of a `pc dev` on this machine. */
export function loadSettings(env: Env, given: Given): Settings {
  const address = given.address ?? (env.FRAZIL_ADDRESS || undefined);
  const token = given.token ?? (env.FRAZIL_TOKEN || undefined);
  const source = given.address !== undefined || given.token !== undefined ? "options" : "environment";
  const tokenSource = given.token !== undefined ? "--token" : "FRAZIL_TOKEN";
  if (address !== undefined && token !== undefined)
    return { address: checkAddress(address), token: checkToken(token, tokenSource), source };
  const files = [configPath(env), devPath(env)];
  for (const path of files) {
    const found = readSettings(path);
    if (found === undefined) continue;
    // One half given alone replaces that half: another token for the same address, say.
    const mixed = address !== undefined || token !== undefined ? `${source} and ${path}` : path;
    const checked = token === undefined ? checkToken(found.token, path) : checkToken(token, tokenSource);
    return { address: checkAddress(address ?? found.address), token: checked, source: mixed };
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
  return env.FRAZIL_CONFIG
    ? expandHome(env.FRAZIL_CONFIG, env)
    : join(userHome(env), ".config", "frazil", "config.json");
}

/** `$FRAZIL_HOME`, or `~/.frazil`: where `pc dev` keeps its things. */
export function homePath(env: Env): string {
  return env.FRAZIL_HOME ? expandHome(env.FRAZIL_HOME, env) : join(userHome(env), ".frazil");
}

function devPath(env: Env): string {
  return join(homePath(env), "dev.json");
}

/** What the shell makes of `~`, where it has not done so: after `=`, and in values of variables. */
export function expandHome(path: string, env: Env): string {
  return path === "~" || path.startsWith("~/") ? join(userHome(env), path.slice(1)) : path;
}

function userHome(env: Env): string {
  return env.HOME || homedir();
}

/** An address without white space around it and a slash at its end. */
export function checkAddress(given: string): string {
  const address = given.trim();
  if (!/^https?:\/\/[^\s/]/.test(address) || !URL.canParse(address)) {
    throw usageError(`"${address}" is not an address of a Frazil server`, "it looks like https://frazil.example.com");
  }
  return address.replace(/\/+$/, "");
}

/** A token without white space around it: one that was read from a file has a line end. It is a secret, and never shown. */
export function checkToken(given: string, source: string): string {
  const token = given.trim();
  if (TOKEN.test(token)) return token;
  const why = token === "" ? "is empty" : "has white space or other characters in it that are in no token";
  throw notConfigured(`the token of ${source} ${why}`, "copy it again, all of it and nothing else");
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
    throw notConfigured(`${path} is not a config file of the form {"address": ..., "token": ...}`, REWRITE_HINT);
  }
  return { address, token };
}

function readIfThere(path: string): string | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw notConfigured(`${path} could not be read: ${(error as Error).message}`);
  }
  if (!isUtf8(bytes)) throw notConfigured(`${path} is not UTF-8 text`, REWRITE_HINT);
  return bytes.toString("utf8");
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
