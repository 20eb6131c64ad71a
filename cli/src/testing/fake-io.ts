import { Readable } from "node:stream";
import type { Io, Output } from "../io.ts";

interface FakeOptions {
  readonly env?: Record<string, string | undefined>;
  readonly cwd?: string;
  readonly stdin?: string | Buffer;
  /** Columns of a terminal on stdout and stderr; without it both are pipes. */
  readonly columns?: number;
  readonly nowMs?: number;
}

export interface FakeIo extends Io {
  out(): string;
  err(): string;
  /** Presses Ctrl-C. */
  interrupt(): void;
  /** Whether something listens for Ctrl-C. */
  isListening(): boolean;
}

/** Streams that keep what is written, and a Ctrl-C that a test presses. */
export function fakeIo(options: FakeOptions = {}): FakeIo {
  const stdout = keepText(options.columns);
  const stderr = keepText(options.columns);
  const handlers = new Set<() => void>();
  const { nowMs } = options;
  return {
    stdout: stdout.output,
    stderr: stderr.output,
    stdin: Readable.from(options.stdin === undefined ? [] : [Buffer.from(options.stdin)]),
    env: { PATH: process.env.PATH, HOME: "/nonexistent", LANG: "C.UTF-8", ...options.env },
    cwd: options.cwd ?? "/nonexistent",
    platform: "linux",
    now: () => nowMs ?? Date.now(),
    onInterrupt(handler) {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    out: stdout.text,
    err: stderr.text,
    interrupt: () => {
      for (const handler of [...handlers]) handler();
    },
    isListening: () => handlers.size > 0,
  };
}

function keepText(columns: number | undefined): { output: Output; text: () => string } {
  let kept = "";
  const write = (text: string) => {
    kept += text;
    return true;
  };
  return { output: columns === undefined ? { write } : { write, isTTY: true, columns }, text: () => kept };
}
