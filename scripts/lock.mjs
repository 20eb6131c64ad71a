/** Writes package-lock.json and the requirements files anew from what the packages ask for. Run by `npm run lock`. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ROOT, VENV_BIN } from "./bootstrap/paths.mjs";
import { runCommand } from "./bootstrap/run-command.mjs";

/** What benchmarks compare with, in an environment of its own. */
const BASELINES = "test/bench/baselines";
const PYTHON_PROJECTS = ["client/pyproject.toml", "runner/engine/pyproject.toml"];

export async function lockDependencies(env) {
  const npmCode = await runCommand("npm", ["install", "--package-lock-only", "--loglevel=error"], { env });
  if (npmCode !== 0) return npmCode;
  const completeCode = await runCommand("node", ["scripts/complete-lock.mjs"], { env });
  if (completeCode !== 0) return completeCode;
  const sources = ["requirements-dev.in", ...PYTHON_PROJECTS.filter((file) => existsSync(join(ROOT, file)))];
  const devCode = await compile(env, "requirements-dev.txt", sources);
  if (devCode !== 0) return devCode;
  return compile(env, join(BASELINES, "requirements.txt"), [
    ...["-c", "requirements-dev.txt"],
    join(BASELINES, "requirements.in"),
  ]);
}

function compile(env, output, sources) {
  const options = ["--quiet", "--universal", "--python-version", "3.11", "--no-header", "-o", output];
  return runCommand(join(VENV_BIN, "uv"), ["pip", "compile", ...options, ...sources], {
    env: { ...env, UV_PYTHON_DOWNLOADS: "never" },
    stdio: ["ignore", "ignore", "inherit"],
  });
}
