import type { Output, OutputFormat, OutputMode } from "@frazil/contracts";
import { ATTEMPTS_MAX, CLUSTER_SIZE_MAX, CPUS_MAX, KEYS_MAX } from "@frazil/contracts/limits";
import { type Command, Option } from "commander";
import type { Io } from "./io.ts";
import {
  collect,
  collectLabels,
  parseDurationMs,
  parseMemoryGiB,
  variablesFrom,
  wholeNumber,
} from "./option-values.ts";

// The contract's own choices, spelled out so that --help need not load the contract; a test compares them.
export const FORMATS: readonly OutputFormat[] = ["parquet", "csv", "ipc", "ndjson"];
export const MODES: readonly OutputMode[] = ["error", "overwrite", "append"];
export const ENGINES = ["auto", "streaming", "in-memory", "gpu"] as const;
const GPUS_MAX = 16;

/** Which machines. */
export interface ContextOptions {
  readonly cpus?: number;
  readonly memory?: number;
  readonly clusterSize?: number;
  readonly gpus?: number;
  readonly cloud?: string;
  readonly idleTimeout?: number;
  readonly package?: string[];
  readonly env?: Record<string, string>;
}

/** Where results go. */
export interface OutputOptions {
  readonly dst?: string;
  readonly format?: OutputFormat;
  readonly mode?: Output["mode"];
}

/** How queries are run. */
export interface RunOptions {
  readonly cluster?: string;
  readonly partitionBy?: readonly string[];
  readonly maxKeys?: number;
  readonly engine?: (typeof ENGINES)[number];
  readonly onFailure?: "continue" | "cancel";
  readonly priority?: number;
  readonly timeout?: number;
  readonly retries?: number;
  readonly seed?: number;
  readonly name?: string;
  readonly label?: Readonly<Record<string, string>>;
  readonly python?: string;
  readonly pythonVersion?: string;
  readonly polars?: string;
}

export interface WaitOptions {
  readonly wait?: boolean;
  readonly waitTimeout?: number;
  readonly follow?: boolean;
}

export interface JobOptions extends ContextOptions, OutputOptions, RunOptions, WaitOptions {
  readonly idempotencyKey?: string;
}

export function addContextOptions(command: Command, io: Pick<Io, "env">): Command {
  return command
    .optionsGroup("Machines:")
    .option("--cpus <n>", "cores, and so task slots, of each node", wholeNumber(1, CPUS_MAX))
    .option("--memory <size>", "memory of each node, such as 64GiB (a bare number is GiB)", parseMemoryGiB)
    .option("--cluster-size <n>", "number of nodes", wholeNumber(1, CLUSTER_SIZE_MAX))
    .option("--gpus <n>", "GPUs of each node", wholeNumber(0, GPUS_MAX))
    .option("--cloud <name>", "where the machines are; default: the workspace's")
    .option("--idle-timeout <duration>", "how long machines without work are kept", parseDurationMs)
    .option("--package <requirement>", "Python package that user code needs (repeatable)", collect)
    .option(
      "--env <NAME=value>",
      "variable for the engine; NAME alone takes it from here (repeatable)",
      variablesFrom(io.env),
    );
}

export function addOutputOptions(command: Command): Command {
  return command
    .optionsGroup("Results:")
    .option("--dst <path>", "path or URL of a file or directory; default: the workspace's results location")
    .addOption(
      new Option("--format <format>", "file format; default: the ending of --dst, else parquet").choices(FORMATS),
    )
    .addOption(new Option("--mode <mode>", "when --dst already holds data (default: error)").choices(MODES));
}

export function addRunOptions(command: Command): Command {
  return command
    .optionsGroup("How to run:")
    .option("--cluster <id>", "run on this started cluster")
    .option("--partition-by <key>", "run once per value: a column, or name=<Polars expression> (repeatable)", collect)
    .option("--max-keys <n>", "refuse more distinct keys than this", wholeNumber(1, KEYS_MAX))
    .addOption(new Option("--engine <engine>", "Polars engine").choices(ENGINES))
    .addOption(
      new Option("--on-failure <what>", "what the other tasks do when one fails").choices(["continue", "cancel"]),
    )
    .option("--priority <n>", "0 to 100; higher runs first", wholeNumber(0, 100))
    .option("--timeout <duration>", "time limit of one attempt at a task, such as 10m", parseDurationMs)
    .option(
      "--retries <n>",
      "tries after the first, when a failure is not the query's own",
      wholeNumber(0, ATTEMPTS_MAX - 1),
    )
    .option("--seed <n>", "seed for random numbers", wholeNumber(0, Number.MAX_SAFE_INTEGER))
    .option("--name <name>", "a name for lists")
    .option("--label <key=value>", "label to find jobs by (repeatable)", collectLabels)
    .option("--idempotency-key <key>", "sending the same again under one key makes one job")
    .optionsGroup("Versions:")
    .option(
      "--python <program>",
      "Python that loads .py files and key expressions; default: $FRAZIL_PYTHON, then python3",
    )
    .option("--python-version <minor>", "Python of functions inside a saved plan, such as 3.11, where it does not say")
    .option("--polars <release>", "Polars release to run with; default: the one that wrote the plan");
}

export function addWaitOptions(command: Command): Command {
  return command
    .optionsGroup("Waiting:")
    .option("--wait", "wait for the end and show the result")
    .option("--wait-timeout <duration>", "stop waiting after this time (exit code 6; the job goes on)", parseDurationMs)
    .option("--follow", "wait, and show on stderr what the queries write");
}
