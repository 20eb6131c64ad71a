import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** Everything that benchmarks write. Safe to delete. */
export const BENCH_DIR = join(ROOT, ".frazil", "bench");
export const VENV_BIN = join(ROOT, ".venv", "bin");
/** Has the Python client and its Polars. */
export const DEV_PYTHON = join(VENV_BIN, "python");

export async function makeBenchDir(): Promise<void> {
  await mkdir(BENCH_DIR, { recursive: true });
}
export const BASELINE_REQUIREMENTS = join(ROOT, "test/bench/baselines/requirements.txt");
