import { type Command, InvalidArgumentError } from "commander";
import type { ExitCode } from "../exit-codes.ts";
import { wholeNumber } from "../option-values.ts";
import type { Run } from "../session.ts";

const PORT_MAX = 65_535;

const EXAMPLES = `
Postgres, the control plane and nodes run as processes of this machine; Ctrl-C ends them all, and the data stays.
DATABASE_URL and REDIS_URL make it use servers of yours. Other commands on this machine find it by themselves where
its home is $FRAZIL_HOME or ~/.frazil; with another --home they need the two variables that it prints.

Examples:
  $ pc dev
  $ pc dev --home /tmp/frazil-try --port 7500 --json`;

/** Options of `pc dev` alone. */
export function devOptions(command: Command): Command {
  return command
    .option("--home <dir>", "where data is kept; default: $FRAZIL_HOME, then ~/.frazil", notEmpty)
    .option(
      "--port <n>",
      "port of the server; default: $FRAZIL_PORT, then 7420, or a free one if that is taken",
      wholeNumber(1, PORT_MAX),
    );
}

interface Options {
  readonly home?: string;
  readonly port?: number;
}

export function define(command: Command, run: Run): void {
  command
    .description("Runs a Frazil server on this machine, with a workspace, a token and a local cloud.")
    .addHelpText("after", EXAMPLES);
  devOptions(command);
  command.action((options: Options) =>
    run(command, async ({ json }) => {
      const { runDev } = await import("../dev/dev.ts");
      return (await runDev({ home: options.home, port: options.port, json })) as ExitCode;
    }),
  );
}

function notEmpty(text: string): string {
  if (text === "") throw new InvalidArgumentError("It is empty.");
  return text;
}
