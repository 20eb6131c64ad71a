import { basename } from "node:path";
import { CliError } from "./cli-error.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { processIo } from "./io.ts";
import { guessGlobals, runCli } from "./program.ts";
import { reportError } from "./session.ts";

/** Runs the command line of this process. Resolves to its exit code. */
export async function start(): Promise<ExitCode> {
  const io = processIo();
  const args = process.argv.slice(2);
  // A reader that has seen enough (`pc jobs | head`) closes its end: that is no error.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(EXIT.ok);
    // A disk that is full, say: what was asked for is not all there, which is neither the job's failure nor a bug.
    const failure = new CliError("output_failed", EXIT.outputFailed, `stdout can't be written to: ${error.message}`);
    process.exit(reportError(io, guessGlobals(args), failure));
  });
  // Remarks and progress that nobody can read must not end the command, nor change its exit code.
  process.stderr.on("error", () => {});
  const called = basename(process.argv[1] ?? "");
  return runCli(io, args, called === "frazil" ? "frazil" : "pc");
}
