import type { AttemptRef, FromNode } from "@frazil/contracts";
import { attemptKey } from "./lease-queue.ts";

/** Phases are for people: only the newest of an attempt is sent, and not more often than this. */
const PROGRESS_INTERVAL_MS = 100;

export interface Progress {
  tell(ref: AttemptRef, phase: string): void;
  /** The attempt is over: a phase that was not sent yet never is. */
  drop(ref: AttemptRef): void;
}

export function createProgress(send: (message: FromNode) => boolean): Progress {
  const newest = new Map<string, FromNode>();
  let timer: NodeJS.Timeout | undefined;

  function flush(): void {
    timer = undefined;
    if (newest.size === 0) return;
    for (const message of newest.values()) send(message);
    newest.clear();
    timer = setTimeout(flush, PROGRESS_INTERVAL_MS);
  }

  return {
    tell(ref, phase) {
      newest.set(attemptKey(ref), {
        type: "progress",
        taskId: ref.taskId,
        attempt: ref.attempt,
        phase: phase.slice(0, 200),
      });
      if (timer === undefined) flush();
    },
    drop: (ref) => void newest.delete(attemptKey(ref)),
  };
}
