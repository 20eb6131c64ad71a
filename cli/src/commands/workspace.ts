import { type Command, InvalidArgumentError, Option } from "commander";
import { EXIT, type ExitCode } from "../exit-codes.ts";
import type { Run, Session } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc workspace                     the workspace, its limit, and what of it is taken
  $ pc workspace --tasks-max 50      at most 50 tasks on nodes at once, over all clusters
  $ pc workspace --tasks-max none`;

const NONE = "none";

interface WorkspaceOptions {
  readonly tasksMax?: number | typeof NONE;
}

export function define(command: Command, run: Run): void {
  command
    .description("Shows the workspace. With --tasks-max, sets how many of its tasks may be on nodes at once.")
    .addOption(new Option("--tasks-max <n>", 'most tasks at once, or "none"').argParser(parseTasksMax))
    .addHelpText("after", EXAMPLES)
    .action((options: WorkspaceOptions) => run(command, (session) => showWorkspace(session, options)));
}

function parseTasksMax(text: string): number | typeof NONE {
  if (text === NONE) return NONE;
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new InvalidArgumentError('expected a whole number from 1, or "none"');
  return Number(text);
}

async function showWorkspace(session: Session, { tasksMax }: WorkspaceOptions): Promise<ExitCode> {
  const api = await session.api();
  const workspace =
    tasksMax === undefined
      ? await api.workspace()
      : await api.changeWorkspace({ tasksRunningMax: tasksMax === NONE ? null : tasksMax });
  if (session.json) session.printJson(workspace);
  else if (session.quiet) session.print(workspace.id);
  else {
    const limit = workspace.tasksRunningMax === null ? "" : ` of at most ${workspace.tasksRunningMax}`;
    session.print(`${workspace.name} (${workspace.id}): ${workspace.tasksRunning} tasks on nodes${limit}`);
  }
  return EXIT.ok;
}
