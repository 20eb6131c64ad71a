import { spawn } from "node:child_process";
import { access, constants, mkdir } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { withFileLock } from "./file-lock.ts";
import type { FoundPython } from "./pythons.ts";

/** The virtual environment of a development checkout. */
const REPOSITORY_BIN = fileURLToPath(new URL("../../../.venv/bin", import.meta.url));
const BOOTSTRAP_WITHIN_MS = 300_000;
const OUTPUT_CHARS_MAX = 64_000;

export interface CommandResult {
  readonly ok: boolean;
  /** The end of what it wrote. */
  readonly output: string;
}

/** Programs that run, each in a session of its own with all that it starts. */
const commands = new Set<number>();

/** Ends them all with what they started: an agent that ends leaves no installation behind that nobody waits for. */
export function killCommands(): void {
  for (const pid of commands) killGroup(pid);
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
}

/** Runs a program to its end, or kills it and what it started at the bound. */
export function runCommand(program: string, args: readonly string[], timeoutMs: number): Promise<CommandResult> {
  return new Promise((resolve) => {
    let output = "";
    const child = spawn(program, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: withoutOwnVariables(),
      detached: true,
    });
    const { pid } = child;
    if (pid !== undefined) commands.add(pid);
    const timer = setTimeout(() => pid !== undefined && killGroup(pid), timeoutMs);
    const take = (chunk: Buffer) => {
      output = (output + chunk.toString("utf8")).slice(-OUTPUT_CHARS_MAX);
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.once("error", (error) => {
      clearTimeout(timer);
      resolve({ ok: false, output: error.message });
    });
    child.once("exit", () => pid !== undefined && commands.delete(pid));
    child.once("close", (code, signal) => {
      clearTimeout(timer);
      const killed = signal === null ? "" : `\nended by ${signal}`;
      resolve({ ok: code === 0, output: output + killed });
    });
  });
}

function withoutOwnVariables(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("FRAZIL_")));
}

/** Path of a `uv`: as configured, on PATH, in the repository's own environment, or installed into the cache directory with pip. */
export async function findUv(
  configured: string | undefined,
  cacheDir: string,
  pythons: readonly FoundPython[],
): Promise<string> {
  if (configured !== undefined) return configured;
  const tools = join(cacheDir, "tools");
  // A pyenv shim is a name that may have nothing behind it.
  const onPath = (process.env.PATH ?? "").split(delimiter).filter((directory) => !/[\\/]shims[\\/]?$/.test(directory));
  for (const directory of [...onPath, REPOSITORY_BIN, join(tools, "bin")]) {
    if (directory !== "" && (await isExecutable(join(directory, "uv")))) return join(directory, "uv");
  }
  await mkdir(cacheDir, { recursive: true });
  return withFileLock(join(cacheDir, "tools.lock"), BOOTSTRAP_WITHIN_MS, async () => {
    const path = join(tools, "bin", "uv");
    return (await isExecutable(path)) ? path : installUv(tools, pythons);
  });
}

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

async function installUv(tools: string, pythons: readonly FoundPython[]): Promise<string> {
  let said = "no Python was found on this node";
  for (const python of pythons) {
    const made = await runCommand(python.path, ["-m", "venv", "--clear", tools], BOOTSTRAP_WITHIN_MS);
    const installed = made.ok
      ? await runCommand(join(tools, "bin", "pip"), ["install", "--quiet", "uv"], BOOTSTRAP_WITHIN_MS)
      : made;
    if (installed.ok) return join(tools, "bin", "uv");
    said = lastLines(installed.output);
  }
  throw new Error(`uv is not on this node and could not be installed (${said}). Install uv, or name it in FRAZIL_UV.`);
}

const LAST_LINES = 15;

/** The end of a program's output, for an error: without credentials that an index address may carry. */
export function lastLines(output: string): string {
  const lines = output.split("\n").filter((line) => line.trim() !== "");
  return lines
    .slice(-LAST_LINES)
    .join("\n")
    .replaceAll(/(\w+:\/\/)[^\s/@]+@/g, "$1***@");
}
