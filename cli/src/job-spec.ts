import { extname, resolve } from "node:path";
import { type ClientVersions, ComputeContext, JobSpec, type OutputFormat } from "@frazil/contracts";
import type { z } from "zod";
import type { Api } from "./api.ts";
import { usageError } from "./cli-error.ts";
import { expandHome } from "./config.ts";
import type { Io } from "./io.ts";
import type { ContextOptions, JobOptions, OutputOptions } from "./job-options.ts";

export type SpecInput = z.input<typeof JobSpec>;
type ContextInput = z.input<typeof ComputeContext>;
export type KeyInput = NonNullable<SpecInput["partitionBy"]>["keys"][number];

const URL_SCHEME = /^[A-Za-z][A-Za-z0-9+.-]*:\/\//;
const EXTENSIONS: Readonly<Record<string, OutputFormat>> = {
  ".parquet": "parquet",
  ".pq": "parquet",
  ".csv": "csv",
  ".ipc": "ipc",
  ".arrow": "ipc",
  ".feather": "ipc",
  ".ndjson": "ndjson",
  ".jsonl": "ndjson",
};

/** The spec of a job out of the options, with only what was asked for in it: the rest is the server's default. */
export function makeSpec(
  options: JobOptions,
  context: ContextInput | undefined,
  client: ClientVersions,
  keys: readonly KeyInput[],
  io: Pick<Io, "cwd" | "env">,
): SpecInput {
  const spec = withoutUndefined({
    name: options.name,
    labels: options.label,
    context,
    clusterId: options.cluster,
    client,
    engine: options.engine,
    output: makeOutput(options, io),
    partitionBy: makePartitionBy(options, keys),
    onFailure: options.onFailure,
    attemptsMax: options.retries === undefined ? undefined : options.retries + 1,
    priority: options.priority,
    timeoutMs: options.timeout,
    seed: options.seed,
  }) as SpecInput;
  return checked(JobSpec, spec);
}

function makePartitionBy(options: JobOptions, keys: readonly KeyInput[]): SpecInput["partitionBy"] {
  if (keys.length === 0) {
    if (options.maxKeys !== undefined) throw usageError("--max-keys is for --partition-by");
    return undefined;
  }
  return withoutUndefined({ keys: [...keys], maxKeys: options.maxKeys }) as SpecInput["partitionBy"];
}

export function makeOutput(options: OutputOptions, io: Pick<Io, "cwd" | "env">): SpecInput["output"] {
  if (options.dst === undefined) {
    if (options.mode !== undefined)
      throw usageError("--mode is for --dst: without a destination, every result has a place of its own");
    return options.format === undefined ? undefined : { format: options.format };
  }
  if (options.dst === "") throw usageError("--dst is empty");
  const format = options.format ?? EXTENSIONS[extname(options.dst.replace(/[?#].*$/, "")).toLowerCase()] ?? "parquet";
  const destination = URL_SCHEME.test(options.dst) ? options.dst : absolutePath(options.dst, io);
  return withoutUndefined({ format, destination, mode: options.mode }) as SpecInput["output"];
}

function absolutePath(given: string, { cwd, env }: Pick<Io, "cwd" | "env">): string {
  // The shell leaves the ~ of --dst=~/out as it is.
  const path = expandHome(given, env);
  const absolute = resolve(cwd, path);
  return /[\\/]$/.test(path) && !absolute.endsWith("/") ? `${absolute}/` : absolute;
}

/** The context asked for; undefined for the workspace's default. What is not said of the machines is taken from that default. */
export async function makeContext(
  options: ContextOptions,
  me: () => ReturnType<Api["me"]>,
): Promise<ContextInput | undefined> {
  const asked = withoutUndefined({
    cloud: options.cloud,
    cpus: options.cpus,
    memoryGiB: options.memory,
    gpus: options.gpus,
    clusterSize: options.clusterSize,
    packages: options.package,
    env: options.env,
    idleTimeoutSeconds: options.idleTimeout === undefined ? undefined : Math.ceil(options.idleTimeout / 1_000),
  });
  if (Object.keys(asked).length === 0) return undefined;
  if ("cpus" in asked && "memoryGiB" in asked) return checked(ComputeContext, asked as ContextInput);
  const { cpus, memoryGiB } = (await me()).defaultContext;
  return checked(ComputeContext, { cpus, memoryGiB, ...asked });
}

function checked<T>(schema: z.ZodType<unknown>, value: T): T {
  const result = schema.safeParse(value);
  if (result.success) return value;
  const issues = result.error.issues.map((issue) => `${optionOf(issue.path)}: ${issue.message}`);
  throw usageError(issues.join("\n"));
}

const OPTION_OF_FIELD: Readonly<Record<string, string>> = {
  memoryGiB: "--memory",
  attemptsMax: "--retries",
  timeoutMs: "--timeout",
  clusterId: "--cluster",
  labels: "--label",
  packages: "--package",
  destination: "--dst",
  keys: "--partition-by",
};

/** The option that a field of the spec comes from. */
function optionOf(path: readonly PropertyKey[]): string {
  const known = path.map(String).find((field) => field in OPTION_OF_FIELD);
  if (known !== undefined) return OPTION_OF_FIELD[known] ?? known;
  const last = path.map(String).findLast((field) => /^[A-Za-z]+$/.test(field)) ?? "spec";
  return `--${last.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`).replace(/-(ms|seconds)$/, "")}`;
}

function withoutUndefined<T extends Record<string, unknown>>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>;
}
