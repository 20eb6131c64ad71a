import { type AttemptRef, LOG_BATCH_LINES_MAX, type NodeLogLine } from "@frazil/contracts";
import type { Logger } from "pino";
import { backoffMs } from "./backoff.ts";
import { attemptKey } from "./lease-queue.ts";
import { type AttemptLog, createAttemptLog, type LogStream } from "./log-lines.ts";

const FLUSH_INTERVAL_MS = 200;
const FLUSH_LINES = 500;
const BATCH_BYTES_MAX = 1024 * 1024;
/** Lines that wait for the control plane, all attempts together. Beyond it lines are dropped, and the log says so. */
const QUEUE_BYTES_MAX = 32 * 1024 * 1024;
/** How long the answer of an attempt waits for the attempt's last lines. */
const CLOSE_WITHIN_MS = 1_000;
const RETRY_BASE_MS = 100;
const RETRY_CAP_MS = 5_000;
/** JSON around a line's text. */
const LINE_OVERHEAD_BYTES = 160;

export type SendLogs = (lines: readonly NodeLogLine[]) => Promise<"sent" | "refused">;

export interface Logs {
  /** Raw output, in whatever pieces it came. */
  write(ref: AttemptRef, stream: LogStream, chunk: Buffer): void;
  /** A whole line, without its end. */
  writeLine(ref: AttemptRef, stream: LogStream, text: string): void;
  /** The attempt writes nothing more. Undefined when all its lines are sent; else done when they are, or after a bound. */
  close(ref: AttemptRef): Promise<void> | undefined;
  /** Sends what waits, within the given time. */
  drain(withinMs: number): Promise<void>;
}

interface OpenLog {
  readonly ref: AttemptRef;
  readonly log: AttemptLog;
  dropped: number;
}

interface State {
  readonly send: SendLogs;
  readonly log: Logger;
  readonly open: Map<string, OpenLog>;
  readonly queue: NodeLogLine[];
  queuedBytes: number;
  /** Positions in the endless sequence of lines: put into the queue, and done with. */
  enqueued: number;
  settled: number;
  timer: NodeJS.Timeout | undefined;
  sending: boolean;
  waiters: { until: number; done: () => void }[];
}

export function createLogs(deps: { send: SendLogs; log: Logger }): Logs {
  const state: State = {
    ...deps,
    open: new Map(),
    queue: [],
    queuedBytes: 0,
    enqueued: 0,
    settled: 0,
    timer: undefined,
    sending: false,
    waiters: [],
  };
  return {
    write(ref, stream, chunk) {
      const entry = openLog(state, ref);
      enqueue(state, entry, entry.log.write(stream, chunk, new Date()));
    },
    writeLine(ref, stream, text) {
      const entry = openLog(state, ref);
      enqueue(state, entry, entry.log.writeLine(stream, text, new Date()));
    },
    close: (ref) => close(state, ref),
    async drain(withinMs) {
      if (state.settled < state.enqueued) await untilSettled(state, withinMs);
    },
  };
}

function openLog(state: State, ref: AttemptRef): OpenLog {
  const key = attemptKey(ref);
  const entry = state.open.get(key) ?? { ref, log: createAttemptLog(), dropped: 0 };
  state.open.set(key, entry);
  return entry;
}

function enqueue(state: State, entry: OpenLog, lines: readonly Omit<NodeLogLine, "taskId" | "attempt">[]): void {
  const { taskId, attempt } = entry.ref;
  for (const line of lines) {
    if (state.queuedBytes > QUEUE_BYTES_MAX) {
      entry.dropped += 1;
      continue;
    }
    state.queue.push({ taskId, attempt, ...line });
    state.queuedBytes += sizeOf(line);
    state.enqueued += 1;
  }
  if (state.queue.length >= FLUSH_LINES) void flush(state);
  else if (state.queue.length > 0) state.timer ??= setTimeout(() => void flush(state), FLUSH_INTERVAL_MS);
}

function close(state: State, ref: AttemptRef): Promise<void> | undefined {
  const key = attemptKey(ref);
  const entry = state.open.get(key);
  if (entry === undefined) return undefined;
  state.open.delete(key);
  enqueue(state, entry, entry.log.end(new Date()));
  if (entry.dropped > 0) {
    const text = `${entry.dropped} lines of this log were dropped, because the control plane could not be reached.`;
    enqueue(state, entry, entry.log.writeLine("system", text, new Date()));
  }
  return state.settled >= state.enqueued ? undefined : untilSettled(state, CLOSE_WITHIN_MS);
}

/** Until everything that is in the queue now is done with, or the time is over. */
function untilSettled(state: State, withinMs: number): Promise<void> {
  void flush(state);
  return new Promise((resolve) => {
    const bound = setTimeout(resolve, withinMs);
    const done = () => {
      clearTimeout(bound);
      resolve();
    };
    state.waiters.push({ until: state.enqueued, done });
  });
}

/** One batch after the other, each until it is taken; the control plane knows a line by its number, so that a repeat does no harm. */
async function flush(state: State): Promise<void> {
  clearTimeout(state.timer);
  state.timer = undefined;
  if (state.sending) return;
  state.sending = true;
  for (let failures = 0; state.queue.length > 0; ) {
    const batch = takeBatch(state.queue);
    if (!(await sendOnce(state, batch))) {
      await new Promise((resolve) => setTimeout(resolve, backoffMs(failures, RETRY_BASE_MS, RETRY_CAP_MS)));
      failures += 1;
      continue;
    }
    failures = 0;
    state.queue.splice(0, batch.length);
    state.queuedBytes -= batch.reduce((total, line) => total + sizeOf(line), 0);
    state.settled += batch.length;
    const done = state.waiters.filter((waiter) => waiter.until <= state.settled);
    state.waiters = state.waiters.filter((waiter) => waiter.until > state.settled);
    for (const waiter of done) waiter.done();
  }
  state.sending = false;
}

function takeBatch(queue: readonly NodeLogLine[]): NodeLogLine[] {
  let bytes = 0;
  let count = 0;
  while (count < queue.length && count < LOG_BATCH_LINES_MAX && (count === 0 || bytes < BATCH_BYTES_MAX)) {
    bytes += sizeOf(queue[count] as NodeLogLine);
    count += 1;
  }
  return queue.slice(0, count);
}

async function sendOnce(state: State, batch: readonly NodeLogLine[]): Promise<boolean> {
  try {
    if ((await state.send(batch)) === "refused") state.log.warn({ lines: batch.length }, "log lines were refused");
    return true;
  } catch (error) {
    state.log.debug({ error: (error as Error).message }, "log lines not sent yet");
    return false;
  }
}

function sizeOf(line: Pick<NodeLogLine, "text">): number {
  return line.text.length + LINE_OVERHEAD_BYTES;
}
