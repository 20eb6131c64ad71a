import { type ChildProcess, spawn } from "node:child_process";
import { openSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { BENCH_DIR } from "./paths.ts";

/** A process that is measured and takes commands; see subjects/serve.py. */
export interface Subject {
  readonly pid: number;
  ask<T>(command: string, args?: Readonly<Record<string, unknown>>): Promise<T>;
  close(): Promise<void>;
}

const ANSWERS_FD = 3;
const CLOSE_MS_MAX = 20_000;

function openSubject(python: string, name: string, env: Readonly<Record<string, string>>): Subject {
  const script = fileURLToPath(new URL(`subjects/${name}.py`, import.meta.url));
  const log = join(BENCH_DIR, `${name}.log`);
  const logFd = openSync(log, "w");
  const child = spawn(python, [script], {
    env: { ...process.env, ...env },
    stdio: ["pipe", logFd, logFd, "pipe"],
  });
  const answers = createInterface(child.stdio[ANSWERS_FD] as Readable)[Symbol.asyncIterator]();
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  return {
    pid: child.pid ?? 0,
    async ask<T>(command: string, args: Readonly<Record<string, unknown>> = {}) {
      child.stdin?.write(`${JSON.stringify({ command, arguments: args })}\n`);
      const { value, done } = await answers.next();
      if (done) throw new Error(`${name} ended without an answer to ${command}; its output is in ${log}`);
      return JSON.parse(value) as T;
    },
    close: () => endSubject(child, ended),
  };
}

/** Runs with a subject that ends afterwards. */
export async function withSubject<T>(
  python: string,
  name: string,
  env: Readonly<Record<string, string>>,
  work: (subject: Subject) => Promise<T>,
): Promise<T> {
  const subject = openSubject(python, name, env);
  try {
    return await work(subject);
  } finally {
    await subject.close();
  }
}

async function endSubject(child: ChildProcess, ended: Promise<void>): Promise<void> {
  child.stdin?.end();
  const force = setTimeout(() => child.kill("SIGKILL"), CLOSE_MS_MAX);
  await ended;
  clearTimeout(force);
}
