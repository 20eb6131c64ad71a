import type { Command } from "commander";
import type { Io } from "../io.ts";
import type { Run } from "../session.ts";

export interface CommandModule {
  /** `buildAll` makes the whole tree of commands, in which this one is a leaf. */
  readonly define: (command: Command, run: Run, io: Io, buildAll: () => Promise<Command>) => void;
}
export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<CommandModule>;
}

/** All commands, in the order of the help. Each is loaded only when it is called. */
export const COMMANDS: readonly CommandEntry[] = [
  { name: "dev", summary: "run a server on this machine", load: () => import("./dev.ts") },
  { name: "login", summary: "keep the address and token of a server", load: () => import("./login.ts") },
  {
    name: "submit",
    summary: "run one query: SQL, a saved plan, or a frame of a Python file",
    load: () => import("./submit.ts"),
  },
  { name: "spawn-many", summary: "run many queries as one job", load: () => import("./spawn-many.ts") },
  { name: "jobs", summary: "list jobs", load: () => import("./jobs.ts") },
  { name: "job", summary: "show a job, its tasks, results or failures", load: () => import("./job.ts") },
  { name: "logs", summary: "show what a job's queries wrote", load: () => import("./logs.ts") },
  { name: "wait", summary: "wait until jobs have ended", load: () => import("./wait.ts") },
  { name: "cancel", summary: "cancel jobs", load: () => import("./cancel.ts") },
  {
    name: "retry",
    summary: "run a job's failed and cancelled tasks again, as a new job",
    load: () => import("./retry.ts"),
  },
  { name: "clusters", summary: "list, start, show and stop clusters", load: () => import("./clusters.ts") },
  {
    name: "workspace",
    summary: "show the workspace, or limit its concurrent tasks",
    load: () => import("./workspace.ts"),
  },
  { name: "doctor", summary: "check the way from here to the server", load: () => import("./doctor.ts") },
  { name: "completion", summary: "print a completion script for a shell", load: () => import("./completion.ts") },
];
