import type { ErrorInfo, Outcome } from "@frazil/contracts";
import { ENGINE_EXIT_OF_CLOSED_FILES, ERROR_MESSAGE_CHARS_MAX } from "@frazil/contracts";
import { RefusedError } from "./control-plane-api.ts";
import type { EngineEnd } from "./engine-process.ts";
import { EngineStartError } from "./engine-start.ts";
import { EnvironmentError } from "./environments.ts";

/** Why this agent ended an engine. */
export type Stop =
  | { readonly kind: "out_of_memory"; readonly usedBytes: number; readonly limitBytes: number }
  | { readonly kind: "timed_out"; readonly timeoutMs: number }
  | { readonly kind: "too_many_processes"; readonly processes: number; readonly limit: number }
  | { readonly kind: "cancelled" }
  | { readonly kind: "draining" };

const MIB = 1024 * 1024;
const toMib = (bytes: number) => Math.round(bytes / MIB);

export function failed(error: ErrorInfo, retryable: boolean): Outcome {
  return { kind: "failed", error: { ...error, message: error.message.slice(0, ERROR_MESSAGE_CHARS_MAX) }, retryable };
}

/** What becomes of a task whose engine is gone without an answer. `together`: so many keys ran in it, any of which may be to blame. */
export function outcomeOfEnd(end: EngineEnd, stop: Stop | undefined, together = 1): Outcome {
  if (stop === undefined) return outcomeOfLoss(end);
  const excess = together > 1 ? excessOf(stop) : undefined;
  if (excess === undefined) return outcomeOfStop(stop);
  const message = `${together} keys that ran together ${excess}.`;
  return failed(
    { code: "engine_lost", message, hint: "Each is tried again in a smaller run, at last by itself." },
    true,
  );
}

function excessOf(stop: Stop): string | undefined {
  switch (stop.kind) {
    case "out_of_memory":
      return `used ${toMib(stop.usedBytes)} MiB of memory; the limit is ${toMib(stop.limitBytes)} MiB`;
    case "timed_out":
      return `had no answer for ${stop.timeoutMs / 1000} s, the limit`;
    case "too_many_processes":
      return `ran ${stop.processes} processes at once; the limit is ${stop.limit}`;
    case "cancelled":
    case "draining":
      return undefined;
  }
}

function outcomeOfStop(stop: Stop): Outcome {
  switch (stop.kind) {
    case "out_of_memory":
      return failed(
        {
          code: "out_of_memory",
          message: `The task used ${toMib(stop.usedBytes)} MiB of memory; its limit is ${toMib(stop.limitBytes)} MiB.`,
          hint: 'Ask for more memory in the compute context, use engine="streaming", or partition the query.',
        },
        false,
      );
    case "timed_out":
      return failed(
        {
          code: "timed_out",
          message: `The task ran longer than its limit of ${stop.timeoutMs / 1000} s.`,
          hint: "Raise the job's timeout, or ask for larger machines.",
        },
        false,
      );
    case "too_many_processes":
      return failed(
        {
          code: "limit_exceeded",
          message: `The task's code ran ${stop.processes} processes at once; the limit is ${stop.limit}.`,
          hint: "Start fewer processes; Polars uses all of the node's cores by itself.",
        },
        false,
      );
    case "cancelled":
    case "draining":
      return { kind: "released" };
  }
}

const SIGNAL_MEANINGS: Record<string, string> = {
  SIGSEGV: "a crash in native code",
  SIGBUS: "a crash in native code, or a mapped file that shrank",
  SIGILL: "native code for another processor, or an abort of native code",
  SIGABRT: "an abort of native code",
  SIGFPE: "an arithmetic fault in native code",
  SIGKILL: "killed from outside, most likely because the machine ran out of memory",
};

function outcomeOfLoss(end: EngineEnd): Outcome {
  const hint = "The last lines of the log may say more.";
  if (end.broke !== undefined) {
    const message = `The engine process said something that is not its protocol (${end.broke}) and was ended.`;
    return failed({ code: "engine_lost", message, hint }, true);
  }
  if (end.exitCode === ENGINE_EXIT_OF_CLOSED_FILES) {
    const message =
      "The query's code closed files of the process that it had not opened (as os.closerange does), among them those through which the engine answers.";
    return failed({ code: "engine_lost", message, hint: "Close only what the code opened itself." }, false);
  }
  if (end.signal === null) {
    return failed(
      {
        code: "engine_lost",
        message: `The engine process ended with exit code ${end.exitCode} before it answered.`,
        hint,
      },
      true,
    );
  }
  const meaning = SIGNAL_MEANINGS[end.signal];
  const message = `The engine process was ended by ${end.signal}${meaning === undefined ? "" : ` (${meaning})`} before it answered.`;
  return failed({ code: "engine_lost", message, hint }, true);
}

/** What becomes of tasks for which no engine was to be had. */
export function outcomeOfFailedStart(error: unknown): Outcome {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof EnvironmentError) return failed({ code: "environment_failed", message }, error.retryable);
  if (error instanceof EngineStartError) {
    return failed({ code: error.permanent ? "environment_failed" : "engine_lost", message }, !error.permanent);
  }
  if (error instanceof RefusedError) {
    return failed({ code: "internal", message: `The node could not get the plan: ${message}` }, true);
  }
  return failed({ code: "unavailable", message: `The node could not prepare the task: ${message}` }, true);
}

const TOO_LARGE = 413;

/** What becomes of a task whose answer the control plane does not take, now or later. */
export function outcomeOfRefusal(error: RefusedError): Outcome {
  if (error.status !== TOO_LARGE)
    return failed({ code: "internal", message: `The task's answer was not taken: ${error.message}` }, false);
  return failed(
    {
      code: "limit_exceeded",
      message: "The task's answer is larger than the control plane takes: it found too many keys, or too long ones.",
      hint: "Choose a coarser key, or one with shorter values.",
    },
    false,
  );
}
