import type { Command } from "commander";
import type { Api } from "./api.ts";
import { CliError } from "./cli-error.ts";
import { loadSettings, type Settings } from "./config.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { withoutControls } from "./format.ts";
import type { Transport } from "./http.ts";
import { type Io, showsUnicode, terminalWidth } from "./io.ts";
import { choosePaint, type Paint } from "./paint.ts";
import { type Column, renderTable } from "./table.ts";
import { CLI_VERSION } from "./version.ts";

/** Options that every command takes. */
export interface GlobalOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly color?: boolean;
  readonly address?: string;
  readonly token?: string;
}

/** What a command works with: the streams, the global options, and, when it asks for it, the server. */
export interface Session {
  readonly io: Io;
  readonly given: GlobalOptions;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly unicode: boolean;
  readonly paint: Paint;
  readonly paintError: Paint;
  settings(): Settings;
  // The two need modules that take time to load (zod, above all), which --help and the like do without.
  transport(): Promise<Transport>;
  api(): Promise<Api>;
  /** Text for people on stdout. */
  print(text: string): void;
  /** A table on stdout that fits the terminal. Gives the number of columns that there was no room for. */
  printTable(columns: readonly Column[], rows: readonly (readonly string[])[]): number;
  /** The one JSON document of a command: indented on a terminal, else one line. */
  printJson(value: unknown): void;
  /** One of a stream of JSON documents. */
  printJsonLine(value: unknown): void;
  /** A remark on stderr, which --quiet and --json leave out. */
  note(text: string): void;
}

/** Runs a command's body with a session made of its options. */
export type Run = (command: Command, body: (session: Session) => Promise<ExitCode>) => Promise<void>;

export function openSession(io: Io, options: GlobalOptions): Session {
  const noColor = options.color === false;
  const paint = choosePaint(io, io.stdout, noColor);
  const unicode = showsUnicode(io);
  const settings = once(() => loadSettings(io.env, options));
  const transport = once(async () => {
    const { openTransport } = await import("./http.ts");
    return openTransport(settings(), `frazil-cli/${CLI_VERSION}`);
  });
  const printJsonLine = (value: unknown) => void io.stdout.write(`${JSON.stringify(value)}\n`);
  const quiet = options.quiet ?? false;
  const json = options.json ?? false;
  return {
    io,
    given: options,
    json,
    quiet,
    unicode,
    paint,
    paintError: choosePaint(io, io.stderr, noColor),
    settings,
    transport,
    api: once(async () => (await import("./api.ts")).openApi(await transport())),
    print: (text) => void io.stdout.write(`${text}\n`),
    printTable(columns, rows) {
      const look = { width: terminalWidth(io.stdout), unicode, paintTitle: (title: string) => paint("bold", title) };
      const { text, leftOut } = renderTable(columns, rows, look);
      io.stdout.write(`${text}\n`);
      return leftOut;
    },
    printJson: (value) =>
      io.stdout.isTTY ? void io.stdout.write(`${JSON.stringify(value, null, 2)}\n`) : printJsonLine(value),
    printJsonLine,
    note: (text) => {
      if (!quiet && !json) io.stderr.write(`${text}\n`);
    },
  };
}

function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

/** Says on stderr why a command ended: in words, or with --json as a problem document. Gives the exit code. */
export function reportError(io: Io, options: GlobalOptions, error: unknown): ExitCode {
  const known = error instanceof CliError ? error : unexpected(error);
  if (options.json) {
    io.stderr.write(`${JSON.stringify(known.toProblem())}\n`);
    return known.exitCode;
  }
  const paint = choosePaint(io, io.stderr, options.color === false);
  io.stderr.write(`${paint("red", "error:")} ${withoutControls(known.message)}\n`);
  for (const issue of issuesOf(known)) io.stderr.write(withoutControls(`  ${issue.path}: ${issue.message}\n`));
  if (known.hint !== undefined) io.stderr.write(`${paint("cyan", "hint:")} ${known.hint}\n`);
  return known.exitCode;
}

const ISSUES_SHOWN_MAX = 20;

function issuesOf(error: CliError): { path: string; message: string }[] {
  const { issues } = error.toProblem();
  return Array.isArray(issues) ? issues.slice(0, ISSUES_SHOWN_MAX) : [];
}

function unexpected(error: unknown): CliError {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new CliError("bug", EXIT.bug, `unexpected: ${text}`, { hint: "this is a bug of the CLI; please report it" });
}
