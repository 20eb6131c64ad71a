import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { BASELINE_REQUIREMENTS, BENCH_DIR, VENV_BIN } from "./paths.ts";

const run = promisify(execFile);
const VENV = join(BENCH_DIR, "venv");
const STAMP = join(VENV, "frazil.stamp");

/** The Python of the environment that holds the baselines; made on first use, and anew when the requirements change. */
export async function baselinePython(): Promise<string> {
  const python = join(VENV, "bin", "python");
  const wanted = createHash("sha256").update(readFileSync(BASELINE_REQUIREMENTS)).digest("hex");
  if (existsSync(STAMP) && readFileSync(STAMP, "utf8") === wanted) return python;
  process.stderr.write("bench: making the environment of the baselines (Ray, Dask) ...\n");
  await rm(VENV, { recursive: true, force: true });
  const uv = join(VENV_BIN, "uv");
  const env = { ...process.env, UV_PYTHON_DOWNLOADS: "never" };
  await run(uv, ["venv", "--quiet", "--python", join(VENV_BIN, "python"), VENV], { env });
  await run(uv, ["pip", "sync", "--quiet", "--python", python, BASELINE_REQUIREMENTS], { env });
  await writeFile(STAMP, wanted);
  return python;
}
