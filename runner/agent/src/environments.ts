import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { z } from "zod";
import type { Config } from "./config.ts";
import { withFileLock } from "./file-lock.ts";
import { parseJson } from "./json.ts";
import type { FoundPython } from "./pythons.ts";
import { findUv, lastLines, runCommand } from "./uv.ts";

/** One program of making an environment: creating it, or installing into it (GPU builds are gigabytes). */
const MAKE_WITHIN_MS = 1_800_000;
/** The same failure is told to every task for this long before uv is asked again: thousands of tasks may wait for one environment. */
const FAILURE_KEPT_MS = 15_000;
const PASSING_FAILURE_KEPT_MS = 1_000;
/** A directory that nothing points to after this long was left by an agent that died while it made it. */
const ABANDONED_AFTER_MS = 6 * 3_600_000;
/** A requirement begins with a name (PEP 508): never an option of uv, a path, or a second line. */
const REQUIREMENT = /^[A-Za-z0-9][^\r\n]*$/;

export interface EnvironmentSpec {
  readonly python: FoundPython;
  readonly polars: string;
  readonly packages: readonly string[];
}

export interface EngineEnvironment {
  readonly key: string;
  /** Path of its interpreter. */
  readonly python: string;
}

export class EnvironmentError extends Error {
  readonly retryable: boolean;
  constructor(message: string, retryable: boolean) {
    super(message);
    this.retryable = retryable;
  }
}

/** `<key>.json` says where the environment of this key is. It is written last, in one rename: what it points to is complete. */
const Pointer = z.object({
  directory: z.string(),
  minor: z.string(),
  polars: z.string(),
  packages: z.array(z.string()),
  requirementsHash: z.string(),
});

export interface Environments {
  /** At once when this agent has used it before. `onProgress` hears what is going on while it is made. */
  prepare(spec: EnvironmentSpec, onProgress: (phase: string) => void): EngineEnvironment | Promise<EngineEnvironment>;
  /** It turned out to be broken or gone. */
  forget(key: string): void;
  /** The environment on this machine that was used last, of those that any workspace may get. */
  findLastUsed(): Promise<EngineEnvironment | undefined>;
}

export interface EnvironmentsDeps {
  readonly config: Pick<Config, "cacheDir" | "engineDir" | "uv">;
  readonly log: Logger;
  readonly pythons: readonly FoundPython[];
}

interface Requirements {
  readonly file: string | undefined;
  readonly hash: string;
}

export async function createEnvironments(deps: EnvironmentsDeps): Promise<Environments> {
  const envsDir = join(deps.config.cacheDir, "envs");
  await mkdir(envsDir, { recursive: true });
  const requirements = await readRequirements(deps.config.engineDir);
  const known = new Map<string, EngineEnvironment>();
  const making = new Map<
    string,
    { done: Promise<EngineEnvironment>; phase: string; listeners: ((phase: string) => void)[] }
  >();
  removeAbandoned(envsDir).catch((error) => deps.log.warn({ error }, "old environments not removed"));

  return {
    prepare(spec, onProgress) {
      const key = environmentKey(spec, requirements.hash);
      const environment = known.get(key);
      if (environment !== undefined) return environment;
      const joined = making.get(key);
      if (joined !== undefined) {
        if (joined.phase !== "") onProgress(joined.phase);
        joined.listeners.push(onProgress);
        return joined.done;
      }
      const entry = {
        phase: "",
        listeners: [onProgress],
        done: Promise.resolve() as unknown as Promise<EngineEnvironment>,
      };
      const tell = (phase: string) => {
        entry.phase = phase;
        for (const listener of entry.listeners) listener(phase);
      };
      entry.done = findOrMake(deps, envsDir, key, spec, requirements, tell);
      making.set(key, entry);
      entry.done.then(
        (made) => {
          known.set(key, made);
          making.delete(key);
        },
        (error: EnvironmentError) => {
          const keptMs = error.retryable ? PASSING_FAILURE_KEPT_MS : FAILURE_KEPT_MS;
          setTimeout(() => making.delete(key), keptMs).unref();
        },
      );
      return entry.done;
    },
    forget: (key) => void known.delete(key),
    findLastUsed: () => findLastUsed(envsDir, requirements.hash),
  };
}

async function readRequirements(engineDir: string): Promise<Requirements> {
  const file = join(engineDir, "frazil_engine", "requirements.txt");
  const text = await readFile(file, "utf8").catch(() => undefined);
  const hash = createHash("sha256")
    .update(text ?? "")
    .digest("hex");
  return { file: text === undefined ? undefined : file, hash };
}

export function environmentKey(spec: EnvironmentSpec, requirementsHash: string): string {
  const parts = [
    process.platform,
    process.arch,
    spec.python.minor,
    spec.polars,
    [...spec.packages].sort(),
    requirementsHash,
  ];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}

type Tell = (phase: string) => void;

async function findOrMake(
  deps: EnvironmentsDeps,
  envsDir: string,
  key: string,
  spec: EnvironmentSpec,
  requirements: Requirements,
  tell: Tell,
): Promise<EngineEnvironment> {
  const refused = spec.packages.find((requirement) => !REQUIREMENT.test(requirement));
  if (refused !== undefined) {
    throw new EnvironmentError(`"${refused.slice(0, 200)}" is not a package requirement such as "scipy>=1.14".`, false);
  }
  const there = await readPointer(envsDir, key);
  if (there !== undefined) return there;
  tell(`making the engine environment: ${describe(spec)}`);
  try {
    return await withFileLock(join(envsDir, `${key}.lock`), MAKE_WITHIN_MS, async () => {
      return (await readPointer(envsDir, key)) ?? (await make(deps, envsDir, key, spec, requirements));
    });
  } catch (error) {
    if (error instanceof EnvironmentError) throw error;
    throw new EnvironmentError(
      `The engine environment (${describe(spec)}) could not be made: ${(error as Error).message}`,
      true,
    );
  }
}

function describe(spec: EnvironmentSpec): string {
  const count = spec.packages.length;
  const packages = count === 0 ? "" : `, ${count} ${count === 1 ? "package" : "packages"}`;
  return `polars ${spec.polars}, python ${spec.python.minor}${packages}`;
}

async function readPointer(envsDir: string, key: string): Promise<EngineEnvironment | undefined> {
  const file = join(envsDir, `${key}.json`);
  const pointer = Pointer.safeParse(parseJson(await readFile(file, "utf8").catch(() => ""))).data;
  if (pointer === undefined) return undefined;
  const environment = { key, python: join(envsDir, pointer.directory, "bin", "python") };
  // An interpreter that was upgraded or removed leaves a link to nothing.
  if (!existsSync(environment.python)) return undefined;
  await utimes(file, new Date(), new Date()).catch(() => {});
  return environment;
}

/** In a directory of its own under its final name, since an environment can't be moved; whoever writes the pointer last has the say. */
async function make(
  deps: EnvironmentsDeps,
  envsDir: string,
  key: string,
  spec: EnvironmentSpec,
  requirements: Requirements,
): Promise<EngineEnvironment> {
  const uv = await findUv(deps.config.uv, deps.config.cacheDir, deps.pythons);
  const directory = `${key}.${randomBytes(4).toString("hex")}`;
  const path = join(envsDir, directory);
  const startedAt = performance.now();
  try {
    await step(spec, uv, [
      "venv",
      "--no-project",
      "--no-progress",
      "--no-python-downloads",
      "--python",
      spec.python.path,
      path,
    ]);
    const python = join(path, "bin", "python");
    const ours = requirements.file === undefined ? [] : ["-r", requirements.file];
    const args = ["pip", "install", "--no-progress", "--compile-bytecode", "--python", python, ...ours];
    await step(spec, uv, [...args, `polars==${spec.polars}`, ...spec.packages]);
    await writePointer(envsDir, key, {
      directory,
      minor: spec.python.minor,
      polars: spec.polars,
      packages: [...spec.packages],
      requirementsHash: requirements.hash,
    });
    deps.log.info(
      { key, polars: spec.polars, python: spec.python.minor, madeMs: Math.round(performance.now() - startedAt) },
      "engine environment made",
    );
    return { key, python };
  } catch (error) {
    await rm(path, { recursive: true, force: true });
    throw error;
  }
}

async function step(spec: EnvironmentSpec, uv: string, args: readonly string[]): Promise<void> {
  const result = await runCommand(uv, args, MAKE_WITHIN_MS);
  if (result.ok) return;
  throw new EnvironmentError(
    `The engine environment (${describe(spec)}) could not be made. uv said:\n${lastLines(result.output)}`,
    isPassing(result.output),
  );
}

/** The network's fault or the machine's, rather than the requirements'. */
export function isPassing(output: string): boolean {
  return /error sending request|failed to fetch|connection (?:reset|refused)|timed? ?out|dns error|temporary failure|status server error|No space left|EAGAIN|ENOMEM|EMFILE|ENFILE|ended by SIGKILL/i.test(
    output,
  );
}

async function writePointer(envsDir: string, key: string, pointer: z.infer<typeof Pointer>): Promise<void> {
  const draft = join(envsDir, `${pointer.directory}.pointer`);
  await writeFile(draft, JSON.stringify(Pointer.parse(pointer)));
  await rename(draft, join(envsDir, `${key}.json`));
}

async function findLastUsed(envsDir: string, requirementsHash: string): Promise<EngineEnvironment | undefined> {
  const pointers = (await readdir(envsDir)).filter((name) => name.endsWith(".json"));
  const dated = await Promise.all(
    pointers.map(async (name) => ({
      name,
      usedAt: (await stat(join(envsDir, name)).catch(() => undefined))?.mtimeMs ?? 0,
    })),
  );
  for (const { name } of dated.sort((left, right) => right.usedAt - left.usedAt)) {
    const pointer = Pointer.safeParse(parseJson(await readFile(join(envsDir, name), "utf8").catch(() => ""))).data;
    if (pointer === undefined || pointer.requirementsHash !== requirementsHash || pointer.packages.length > 0) continue;
    const python = join(envsDir, pointer.directory, "bin", "python");
    if (existsSync(python)) return { key: name.slice(0, -".json".length), python };
  }
  return undefined;
}

async function removeAbandoned(envsDir: string): Promise<void> {
  const names = await readdir(envsDir);
  const pointed = new Set<string>();
  for (const name of names.filter((entry) => entry.endsWith(".json"))) {
    const pointer = Pointer.safeParse(parseJson(await readFile(join(envsDir, name), "utf8").catch(() => ""))).data;
    if (pointer !== undefined) pointed.add(pointer.directory);
  }
  for (const name of names.filter((entry) => /^[0-9a-f]{32}\.[0-9a-f]{8}$/.test(entry) && !pointed.has(entry))) {
    const made = await stat(join(envsDir, name)).catch(() => undefined);
    if (made !== undefined && Date.now() - made.mtimeMs > ABANDONED_AFTER_MS)
      await rm(join(envsDir, name), { recursive: true, force: true });
  }
}
