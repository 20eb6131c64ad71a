import type { Command } from "commander";
import type { ExitCode } from "../exit-codes.ts";
import type { Io } from "../io.ts";
import { addContextOptions, addOutputOptions, addRunOptions, addWaitOptions, type JobOptions } from "../job-options.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
What to run:
  SQL text             over read_parquet('...'), read_csv('...') and their like
  query.sql            a file of SQL text
  plan.bin             a saved plan: lf.serialize("plan.bin")
  etl.py:daily         the LazyFrame named daily in a Python file
  etl.py               the only LazyFrame in it
  -                    SQL text or a plan on stdin

Examples:
  $ pc submit "SELECT region, sum(value) FROM read_parquet('sales.parquet') GROUP BY region" --wait
  $ pc submit etl.py:daily --cpus 16 --memory 64GiB --dst s3://bucket/daily/ --mode overwrite
  $ pc submit etl.py:daily --dst out/ --partition-by 'year=pl.col("day").dt.year()'
  $ id=$(pc submit query.sql) && pc wait "$id" && pc job "$id" --json`;

export function define(command: Command, run: Run, io: Io): void {
  command
    .description(
      "Runs one query, or one query per key with --partition-by. Prints the job's id, or with --wait its result.",
    )
    .argument("<query>", "SQL text, or a file; see below")
    .addHelpText("after", EXAMPLES);
  addOutputOptions(command);
  addRunOptions(command);
  addContextOptions(command, io);
  addWaitOptions(command);
  command.action((query: string, options: JobOptions) => run(command, (session) => submit(session, query, options)));
}

async function submit(session: Session, query: string, options: JobOptions): Promise<ExitCode> {
  const { submitOne } = await import("../submit-one.ts");
  return submitOne(session, query, options);
}
