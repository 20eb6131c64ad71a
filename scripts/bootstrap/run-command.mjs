import { spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./paths.mjs";

const OUTPUT_TAIL_BYTES = 16 * 1024;

/**
 * @typedef {{ env?: NodeJS.ProcessEnv, cwd?: string, stdio?: import("node:child_process").StdioOptions }} RunOptions
 */

/**
 * Runs a command with its output on this terminal. Ctrl-C reaches it through the terminal; SIGTERM is passed on.
 * Resolves to its exit code.
 * @param {string} command
 * @param {string[]} args
 * @param {RunOptions} options
 * @returns {Promise<number>}
 */
export function runCommand(command, args, { env = process.env, cwd = ROOT, stdio = "inherit" } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env, cwd, stdio });
    const passOn = (signal) => child.kill(signal);
    const ignore = () => {};
    process.on("SIGTERM", passOn);
    process.on("SIGINT", ignore);
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      process.off("SIGTERM", passOn);
      process.off("SIGINT", ignore);
      resolve(signal ? 128 : (code ?? 1));
    });
  });
}

/**
 * Runs a command beside others: its output is kept, and given at its end.
 * @param {string} command
 * @param {string[]} args
 * @param {RunOptions} options
 * @returns {Promise<{ code: number, output: string }>}
 */
export async function runKeeping(command, args, options = {}) {
  const folder = mkdtempSync(join(tmpdir(), "frazil-output-"));
  const file = join(folder, "output");
  const output = openSync(file, "a");
  try {
    const code = await runCommand(command, args, { ...options, stdio: ["ignore", output, output] });
    return { code, output: readFileSync(file, "utf8") };
  } finally {
    closeSync(output);
    rmSync(folder, { recursive: true });
  }
}

/**
 * Runs a command silently. Rejects with the end of its output when it fails. Resolves to its standard output.
 * @param {string} command
 * @param {string[]} args
 * @param {RunOptions} options
 * @returns {Promise<string>}
 */
export function runQuietly(command, args, { env = process.env, cwd = ROOT } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env, cwd, stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let tail = "";
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
      tail = (tail + chunk).slice(-OUTPUT_TAIL_BYTES);
    });
    child.stderr.on("data", (chunk) => {
      tail = (tail + chunk).slice(-OUTPUT_TAIL_BYTES);
    });
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) resolve(stdout);
      else reject(new Error(`${command} ${args.join(" ")} failed (exit code ${code}):\n${tail}`));
    });
  });
}
