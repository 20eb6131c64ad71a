import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";

/**
 * A shell that holds one end of a pipe to this process and runs the program beside it. When the pipe closes, because this process asks
 * for it or because it died in whatever way, the shell sends SIGINT to the program. `read` and `wait` are built in: nothing else runs.
 * Shells start background programs with SIGINT ignored, so this serves programs that set a handler of their own, as servers do.
 */
const GUARD = [
  "exec 3<&0 </dev/null",
  '"$@" 3<&- &',
  "program=$!",
  "(read _ <&3; kill -INT $program) 2>/dev/null &",
  "watcher=$!",
  "exec 3<&-",
  "wait $program",
  "code=$?",
  "kill $watcher 2>/dev/null",
  "exit $code",
].join("\n");

export interface GuardedProcess {
  /** Resolves to the exit code once the program has ended, for whatever reason. */
  exited: Promise<number>;
  hasEnded(): boolean;
  /** Asks the program to end, with SIGINT. */
  interrupt(): void;
}

export interface GuardOptions {
  env: NodeJS.ProcessEnv;
  cwd: string;
  /** File descriptor for standard output and standard error. */
  logFd: number;
  uid?: number;
  gid?: number;
}

/** Starts a program that ends with this process. It has a session of its own, so that Ctrl-C in a terminal reaches this process only. */
export async function spawnGuarded(command: readonly string[], options: GuardOptions): Promise<GuardedProcess> {
  const { logFd, ...spawnOptions } = options;
  const child = spawn("/bin/sh", ["-c", GUARD, "sh", ...command], {
    ...spawnOptions,
    stdio: ["pipe", logFd, logFd],
    detached: true,
  });
  const exited = readExitCode(child);
  child.stdin?.on("error", () => undefined);
  await once(child, "spawn");
  return {
    exited,
    hasEnded: () => child.exitCode !== null || child.signalCode !== null,
    interrupt: () => child.stdin?.end(),
  };
}

function readExitCode(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => child.once("exit", (code) => resolve(code ?? 1)));
}
