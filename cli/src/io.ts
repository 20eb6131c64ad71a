import type { Readable } from "node:stream";

/** A stream that text is written to. `columns` is there for a terminal only. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

/** Everything that a command touches outside of itself, so that tests can stand in for a terminal. */
export interface Io {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly stdin: Readable & { readonly isTTY?: boolean | undefined };
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly platform: NodeJS.Platform;
  now(): number;
  /** Calls `handler` at Ctrl-C instead of ending the process, until the returned function is called. */
  onInterrupt(handler: () => void): () => void;
}

export function processIo(): Io {
  return {
    stdout: process.stdout,
    stderr: process.stderr,
    stdin: process.stdin,
    env: process.env,
    cwd: process.cwd(),
    platform: process.platform,
    now: Date.now,
    onInterrupt(handler) {
      process.on("SIGINT", handler);
      return () => process.off("SIGINT", handler);
    },
  };
}

/** Width that a table has to fit into; undefined where lines may be of any length (a file or a pipe). */
export function terminalWidth(output: Output): number | undefined {
  return output.isTTY ? Math.max(output.columns ?? 80, 20) : undefined;
}

/** Whether box and block characters can be shown. */
export function showsUnicode(io: Pick<Io, "env" | "platform">): boolean {
  const { env } = io;
  if (env.TERM === "dumb" || env.TERM === "linux") return false;
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || "";
  if (io.platform === "win32") return env.WT_SESSION !== undefined || /utf-?8/i.test(locale);
  return /utf-?8/i.test(locale) || (io.platform === "darwin" && locale === "");
}
