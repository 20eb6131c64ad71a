import { Argument, type Command } from "commander";
import { EXIT } from "../exit-codes.ts";
import type { Io } from "../io.ts";
import type { Run } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc completion bash > ~/.local/share/bash-completion/completions/pc
  $ pc completion zsh > ~/.zfunc/_pc                  (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  $ pc completion fish > ~/.config/fish/completions/pc.fish`;

const SHELLS = ["bash", "zsh", "fish"] as const;

export function define(command: Command, run: Run, _io: Io, buildAll: () => Promise<Command>): void {
  command
    .description("Prints a script that makes a shell complete the words of pc (and frazil).")
    .addArgument(new Argument("<shell>", "which shell").choices(SHELLS))
    .addHelpText("after", EXAMPLES)
    .action((shell: (typeof SHELLS)[number]) =>
      run(command, async (session) => {
        const { makeScript, readWords } = await import("../completion-scripts.ts");
        session.io.stdout.write(makeScript(shell, readWords(await buildAll())));
        return EXIT.ok;
      }),
    );
}
