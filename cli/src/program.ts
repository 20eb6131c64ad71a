import { Command, CommanderError, Option } from "commander";
import { CliError } from "./cli-error.ts";
import { COMMANDS, type CommandEntry } from "./commands/registry.ts";
import { EXIT, EXIT_CODES_HELP, type ExitCode } from "./exit-codes.ts";
import type { Io } from "./io.ts";
import { terminalWidth } from "./io.ts";
import { type GlobalOptions, openSession, type Run, reportError } from "./session.ts";
import { CLI_VERSION } from "./version.ts";

const HELP_WIDTH_MAX = 110;

const ROOT_HELP = `
Examples:
  $ pc dev                                             a server on this machine
  $ pc submit "SELECT count(*) FROM read_parquet('x.parquet')" --wait
  $ pc submit etl.py:daily --cpus 16 --memory 64 --dst s3://bucket/daily/
  $ pc spawn-many --sql "SELECT * FROM read_parquet('{day}.parquet')" --param day=2024-01-01..2024-01-31
  $ pc jobs --status running
  $ pc logs -f job_01...

Where a command takes a job id, "-" means your newest job.

${EXIT_CODES_HELP}`;

/** Runs one command line. Never throws: what goes wrong is said on stderr and is in the exit code. */
export async function runCli(io: Io, args: readonly string[], name = "pc"): Promise<ExitCode> {
  const state: { exitCode: ExitCode; options: GlobalOptions } = { exitCode: EXIT.ok, options: guessGlobals(args) };
  const run: Run = async (command, body) => {
    state.options = globalOptionsOf(command);
    state.exitCode = await body(openSession(io, state.options));
  };
  try {
    const program = await buildProgram(io, name, run, commandOf(args));
    await program.parseAsync([...args], { from: "user" });
    return state.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return endOfParsing(io, state.options, error);
    return reportError(io, state.options, error);
  }
}

/** The tree of commands. Only the one that is called is defined in full, since the others' options are not looked at. */
async function buildProgram(io: Io, name: string, run: Run, called: string | "all"): Promise<Command> {
  const program = configure(new Command(name), io);
  program
    .description("Runs Polars queries on machines in your own cloud account.")
    .version(`${name} ${CLI_VERSION}`, "-V, --version", "show the version")
    .addHelpText("after", ROOT_HELP);
  addGlobalOptions(program);
  for (const entry of COMMANDS) {
    const command = configure(program.command(entry.name), io).summary(entry.summary);
    if (called === "all" || called === entry.name) {
      await defineCommand(command, entry, run, io, () => buildProgram(io, name, run, "all"));
    }
  }
  return program;
}

async function defineCommand(
  command: Command,
  entry: CommandEntry,
  run: Run,
  io: Io,
  buildAll: () => Promise<Command>,
): Promise<void> {
  const { define } = await entry.load();
  define(command, run, io, buildAll);
  for (const each of [command, ...command.commands]) {
    configure(each, io);
    addGlobalOptions(each);
  }
}

function configure(command: Command, io: Io): Command {
  const width = (output: Io["stdout"]) => Math.min(terminalWidth(output) ?? HELP_WIDTH_MAX, HELP_WIDTH_MAX);
  return command
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      // Said by endOfParsing, in the form that was asked for.
      outputError: () => {},
      getOutHelpWidth: () => width(io.stdout),
      getErrHelpWidth: () => width(io.stderr),
    })
    .configureHelp({ showGlobalOptions: false, minWidthToWrap: 20 });
}

function addGlobalOptions(command: Command): void {
  command
    .optionsGroup("Global options:")
    .helpOption("-h, --help", "show this help")
    .addOption(new Option("--json", "stdout in JSON (NDJSON for streams), errors on stderr as problem documents"))
    .addOption(new Option("--address <url>", "server to talk to; default: $FRAZIL_ADDRESS, then the config file"))
    .addOption(new Option("--token <token>", "token to use; default: $FRAZIL_TOKEN, then the config file"))
    .addOption(new Option("--no-color", "no colours (also: NO_COLOR=1)"))
    .addOption(new Option("-q, --quiet", "only what was asked for: ids instead of tables, no progress, no remarks"));
}

/** The global options, wherever on the line they stand. */
function globalOptionsOf(command: Command): GlobalOptions {
  const options: Record<string, unknown> = {};
  for (let each: Command | null = command; each !== null; each = each.parent) {
    for (const name of ["json", "quiet", "color", "address", "token"]) {
      const given = each.getOptionValueSource(name) !== "default";
      if (given && !(name in options) && each.getOptionValue(name) !== undefined)
        options[name] = each.getOptionValue(name);
    }
  }
  return options;
}

/** What is known of the global options without parsing the line: enough to report an error. */
export function guessGlobals(args: readonly string[]): GlobalOptions {
  return { json: args.includes("--json"), ...(args.includes("--no-color") ? { color: false } : {}) };
}

const OPTIONS_WITH_VALUE = new Set(["--address", "--token"]);

/** The command's name: the first word that is no option. After `help`, the next one. */
export function commandOf(args: readonly string[]): string {
  const words: string[] = [];
  for (let index = 0; index < args.length; index += 1) {
    const arg = args[index] ?? "";
    if (OPTIONS_WITH_VALUE.has(arg)) index += 1;
    else if (!arg.startsWith("-")) words.push(arg);
  }
  return (words[0] === "help" ? words[1] : words[0]) ?? "";
}

function endOfParsing(io: Io, options: GlobalOptions, error: CommanderError): ExitCode {
  if (error.exitCode === 0) return EXIT.ok;
  if (error.code === "commander.help") return EXIT.usage;
  const detail = error.message.replace(/^error: /, "");
  return reportError(io, options, new CliError("usage", EXIT.usage, detail, { hint: "see --help", cause: error }));
}
