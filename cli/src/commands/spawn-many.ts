import type { Command } from "commander";
import type { ExitCode } from "../exit-codes.ts";
import type { Io } from "../io.ts";
import { addContextOptions, addOutputOptions, addRunOptions, addWaitOptions, type JobOptions } from "../job-options.ts";
import { collect } from "../option-values.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
What to run, in any number:
  plans/*.bin          saved plans and .sql files; patterns may be quoted
  etl.py:frames        a list (or dict) of LazyFrames in a Python file
  --sql TEMPLATE       SQL with {name} in it, once per combination of parameters

Parameters:
  --param region=eu,us                       these values
  --param day=2024-01-01..2024-01-31         each day; "..7" at the end for every 7th
  --param n=0..100..10                       whole numbers; the ends are included
  --param 'city=["Den Haag","a,b"]'          values with commas in them, as a JSON array
  --params-file rows.csv                     one set per row; CSV with a header line, or NDJSON
Values are text: put {name} inside '...' (or "..." for a column's name), where quotes are doubled. Outside of
quotes only numbers and true/false are accepted. {{ and }} stand for single braces.

Examples:
  $ pc spawn-many 'plans/*.bin' --dst s3://bucket/out/ --wait
  $ pc spawn-many etl.py:frames --partition-by day --dst out/ --cpus 8 --memory 32
  $ pc spawn-many --sql "SELECT * FROM read_parquet('in/{day}.parquet') WHERE region = '{region}'" \\
      --param day=2024-01-01..2024-01-31 --param region=eu,us --dry-run`;

export interface ManyOptions extends JobOptions {
  readonly sql?: string;
  readonly param?: readonly string[];
  readonly paramsFile?: string;
  readonly dryRun?: boolean;
}

export function define(command: Command, run: Run, io: Io): void {
  command
    .description("Runs many queries as one job. One failing leaves the others alone. Equal queries are sent once.")
    .argument("[queries...]", "files, patterns, file.py:frames; see below")
    .addHelpText("after", EXAMPLES)
    .optionsGroup("Queries:")
    .option("--sql <template>", "SQL with {name} in it; @file.sql reads it from a file")
    .option("--param <name=values>", "values for {name} (repeatable; all combinations are run)", collect)
    .option("--params-file <file>", "a set of parameters per row")
    .option("--dry-run", "show what would be sent, and send nothing");
  addOutputOptions(command);
  addRunOptions(command);
  addContextOptions(command, io);
  addWaitOptions(command);
  command.action((queries: string[], options: ManyOptions) =>
    run(command, (session) => spawnMany(session, queries, options)),
  );
}

async function spawnMany(session: Session, queries: readonly string[], options: ManyOptions): Promise<ExitCode> {
  const { submitMany } = await import("../submit-many.ts");
  return submitMany(session, queries, options);
}
