import type { Command } from "commander";
import type { Run } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc doctor
  $ pc doctor --json | jq -r '.checks[] | select(.status == "failed").fix'`;

export function define(command: Command, run: Run): void {
  command
    .description("Checks the way from here to the server, and says for each fault what to do.")
    .addHelpText("after", EXAMPLES)
    .option("--python <program>", "Python to check; default: $FRAZIL_PYTHON, then python3")
    .action((options: { python?: string }) =>
      run(command, async (session) => (await import("../doctor.ts")).runDoctor(session, options.python)),
    );
}
