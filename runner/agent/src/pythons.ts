import { readdir } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";

/** The oldest Python that the engine is written for. */
export const OLDEST_MINOR = 10;
const EXECUTABLE = /^python3\.(\d{1,2})$/;

export interface FoundPython {
  /** Such as 3.11. */
  readonly minor: string;
  readonly path: string;
}

/**
 * Interpreters by name alone, none of them started: on PATH, and where pyenv and uv keep theirs. One per minor, PATH first, in order of minor.
 * pyenv's shims are passed over: most of them are names without an interpreter behind them.
 */
export async function findPythons(
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<FoundPython[]> {
  const onPath = (env.PATH ?? "")
    .split(delimiter)
    .filter((directory) => directory !== "" && !/[\\/]shims[\\/]?$/.test(directory));
  const pyenv = join(env.PYENV_ROOT ?? join(homedir(), ".pyenv"), "versions");
  const uv = env.UV_PYTHON_INSTALL_DIR ?? join(homedir(), ".local", "share", "uv", "python");
  const kept = await Promise.all([pyenv, uv].map(installationsIn));
  const found = await Promise.all([...onPath, ...kept.flat()].map(executablesIn));
  const byMinor = new Map<string, FoundPython>();
  for (const python of found.flat()) if (!byMinor.has(python.minor)) byMinor.set(python.minor, python);
  return [...byMinor.values()].sort((left, right) => minorNumber(left.minor) - minorNumber(right.minor));
}

/** Newest patch release first. */
async function installationsIn(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch(() => []);
  names.sort((left, right) => right.localeCompare(left, "en", { numeric: true }));
  return names.map((name) => join(directory, name, "bin"));
}

async function executablesIn(directory: string): Promise<FoundPython[]> {
  const names = await readdir(directory).catch(() => []);
  return names.flatMap((name) => {
    const minor = Number(EXECUTABLE.exec(name)?.[1] ?? -1);
    return minor >= OLDEST_MINOR ? [{ minor: `3.${minor}`, path: join(directory, name) }] : [];
  });
}

export type PythonChoice =
  | { kind: "chosen"; python: FoundPython }
  | { kind: "unsupported"; message: string; hint: string };

/**
 * Pickled Python runs only on the minor that wrote it. Any other plan runs on every minor: then the client's own, else the nearest (the engine
 * environment of a near one is the likelier to be made already, and its wheels to exist).
 */
export function choosePython(pythons: readonly FoundPython[], minor: string, hasPython: boolean): PythonChoice {
  const same = pythons.find((python) => python.minor === minor);
  if (same !== undefined) return { kind: "chosen", python: same };
  const have = pythons.length === 0 ? "none" : pythons.map((python) => python.minor).join(", ");
  if (hasPython) {
    return {
      kind: "unsupported",
      message: `The plan carries Python functions written by Python ${minor}, and only that version can run them. This node has: ${have}.`,
      hint: `Submit from Python ${have === "none" ? `3.${OLDEST_MINOR} or later` : have}, install Python ${minor} on the node, or express the functions as Polars expressions.`,
    };
  }
  const wanted = minorNumber(minor);
  const distance = (python: FoundPython) => Math.abs(minorNumber(python.minor) - wanted);
  const nearest = [...pythons].sort((left, right) => distance(left) - distance(right))[0];
  if (nearest !== undefined) return { kind: "chosen", python: nearest };
  return {
    kind: "unsupported",
    message: `No Python 3.${OLDEST_MINOR} or later was found on this node.`,
    hint: "Install one where the node's PATH, pyenv or uv has it.",
  };
}

function minorNumber(minor: string): number {
  return Number(minor.split(".")[1] ?? 0);
}
