import { existsSync } from "node:fs";
import { join } from "node:path";
import { ROOT, VENV_BIN } from "../bootstrap/paths.mjs";
import { runCommand } from "../bootstrap/run-command.mjs";

const TYPESCRIPT_FOLDERS = [
  "contracts",
  "control-plane",
  "infra",
  "runner/agent",
  "migrations",
  "cli",
  "test",
  "scripts",
];
const PYTHON_FOLDERS = ["client", "runner/engine", "examples", "test"];
const RUFF = join(VENV_BIN, "ruff");

/** The static checks: each counts as one test. */
export const CHECKS = [
  { name: "biome", command: ["biome", "check", "--error-on-warnings"] },
  { name: "tsc", command: ["tsc", "--noEmit"] },
  { name: "tsc scripts", command: ["tsc", "--noEmit", "--project", "scripts/tsconfig.json"] },
  {
    name: "dependency-cruiser",
    command: ["depcruise", "--config", ".dependency-cruiser.cjs", "--output-type", "err", ...TYPESCRIPT_FOLDERS],
  },
  { name: "knip", command: ["knip", "--no-progress"] },
  { name: "ruff check", command: [RUFF, "check", ...pythonFolders()] },
  { name: "ruff format", command: [RUFF, "format", "--check", "--quiet", ...pythonFolders()] },
  { name: "pyright", command: ["pyright", "--warnings"] },
];

/** Formats everything that the checks look at, and applies the safe fixes. */
export async function formatSources(env) {
  const commands = [
    ["biome", "check", "--write"],
    [RUFF, "check", "--fix", ...pythonFolders()],
    [RUFF, "format", ...pythonFolders()],
  ];
  const codes = [];
  for (const command of commands) codes.push(await runWords(command, env));
  return Math.max(...codes);
}

/** Runs a command given as its words. */
export function runWords(words, env) {
  return runCommand(words[0], words.slice(1), { env });
}

function pythonFolders() {
  return PYTHON_FOLDERS.filter((folder) => existsSync(join(ROOT, folder)));
}
