import type { Command } from "commander";
import type { ExitCode } from "../exit-codes.ts";
import type { Run } from "../session.ts";

const EXAMPLES = `
The token is asked for, or read from stdin where that is no terminal, so that it is neither in the shell's history
nor in the list of processes. It is checked, then kept in $FRAZIL_CONFIG, or ~/.config/frazil/config.json,
which only you can read. FRAZIL_ADDRESS and FRAZIL_TOKEN go before that file.

Examples:
  $ pc login https://frazil.example.com
  $ pc login https://frazil.example.com < token.txt`;

export function define(command: Command, run: Run): void {
  command
    .description("Keeps the address and token of a server for all later commands.")
    .argument("[address]", "address of the server, such as https://frazil.example.com")
    .addHelpText("after", EXAMPLES)
    .action((address: string | undefined) =>
      run(command, async (session): Promise<ExitCode> => {
        const { login } = await import("../login.ts");
        return login(session, address);
      }),
    );
}
