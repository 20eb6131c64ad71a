import { type ChildProcess, spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import type { Readable, Writable } from "node:stream";
import { FromEngine, type ToEngine } from "@frazil/contracts";
import { createFrameReader, encodeFrame, FrameError } from "./frames.ts";
import { readProcess } from "./process-list.ts";
import { killTree, type TreeRoot } from "./process-tree.ts";

/** The kernel's own out-of-memory killer takes engines before anything else on the machine. */
const ENGINE_OOM_SCORE = 800;
/** A process that outlives the engine can hold its pipes open: what the engine wrote is there long before this. */
const LAST_WORDS_WITHIN_MS = 200;

export interface EngineSpawn {
  readonly python: string;
  readonly variables: Record<string, string>;
  readonly workDir: string;
  readonly mark: string;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

export interface EngineEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Set when it broke the protocol, and was killed for it. */
  readonly broke: string | undefined;
}

export interface EngineEvents {
  onMessage(message: FromEngine, body: Buffer): void;
  /** Bytes that were written past Python, by native code or a child process. */
  onOutput(stream: "stdout" | "stderr", chunk: Buffer): void;
  /** Once, after everything that it had written was handed on. */
  onEnd(end: EngineEnd): void;
}

export interface EngineProcess {
  readonly root: TreeRoot;
  /** Who hears of this engine. Changes with each run. */
  events: EngineEvents;
  /** Told once, as soon as the process has ended: last words may still come. */
  onExit(): void;
  /** Told once, after `events.onEnd`. */
  onGone(): void;
  send(message: ToEngine, body?: Uint8Array): void;
  /** Kills everything that the engine started, and the engine. `onEnd` follows. */
  kill(): void;
}

/** Throws when the process can't be started at all. */
export async function spawnEngine(options: EngineSpawn, events: EngineEvents): Promise<EngineProcess> {
  const child = spawn(options.python, ["-u", "-m", "frazil_engine"], {
    cwd: options.workDir,
    env: options.variables,
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "pipe", "pipe"],
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  });
  await once(child);
  const pid = child.pid as number;
  const root: TreeRoot = { pid, startTime: readProcess(pid)?.startTime ?? "", mark: options.mark, known: new Map() };
  raiseOomScore(pid);
  return attach(child, root, events);
}

function once(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
}

function raiseOomScore(pid: number): void {
  if (process.platform !== "linux") return;
  // Best effort: it has no say in whether a task is right.
  writeFile(`/proc/${pid}/oom_score_adj`, String(ENGINE_OOM_SCORE)).catch(() => {});
}

function attach(child: ChildProcess, root: TreeRoot, events: EngineEvents): EngineProcess {
  const [, stdout, stderr, input, output] = child.stdio as unknown as [null, Readable, Readable, Writable, Readable];
  let broke: string | undefined;
  const engine: EngineProcess = {
    root,
    events,
    onExit() {},
    onGone() {},
    send(message, body) {
      if (input.writable) input.write(encodeFrame(message, body));
    },
    kill: () => void killTree(root),
  };
  const reader = createFrameReader();
  output.on("data", (chunk: Buffer) => {
    if (broke !== undefined) return;
    try {
      for (const frame of reader.push(chunk)) engine.events.onMessage(parseMessage(frame.header), frame.body);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      broke = error.message;
      engine.kill();
    }
  });
  stdout.on("data", (chunk: Buffer) => engine.events.onOutput("stdout", chunk));
  stderr.on("data", (chunk: Buffer) => engine.events.onOutput("stderr", chunk));
  // A write to an engine that has just ended; its exit says the rest.
  for (const stream of [input, output, stdout, stderr]) stream.on("error", () => {});

  const ended = Promise.all(
    [output, stdout, stderr].map((stream) => new Promise((done) => stream.once("close", done))),
  );
  child.once("exit", async (exitCode, signal) => {
    engine.onExit();
    // What it started may still run, and may hold its pipes.
    engine.kill();
    await within(ended, LAST_WORDS_WITHIN_MS);
    for (const stream of [output, stdout, stderr]) stream.destroy();
    input.destroy();
    engine.events.onEnd({ exitCode, signal, broke });
    engine.onGone();
  });
  return engine;
}

function parseMessage(header: unknown): FromEngine {
  const message = FromEngine.safeParse(header);
  if (!message.success)
    throw new FrameError(`a message that is not one of an engine's: ${message.error.issues[0]?.message}`);
  return message.data;
}

async function within(promise: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, bound]);
  clearTimeout(timer);
}
