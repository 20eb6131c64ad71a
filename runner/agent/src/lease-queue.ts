import type { AttemptRef } from "@frazil/contracts";

/** One attempt of one task; the number fences. */
export function attemptKey(ref: AttemptRef): string {
  return `${ref.taskId}#${ref.attempt}`;
}

export interface Waiting {
  readonly slots: number;
  /** Its engine environment is made. */
  readonly ready: boolean;
}

/**
 * Which of the waiting runs starts next: the first one whose environment is there, if it fits. A later, smaller one does not pass it, or a run
 * that takes the whole node would never start. Undefined when nothing can start now.
 */
export function chooseNext<T extends Waiting>(waiting: Iterable<T>, freeSlots: number): T | undefined {
  for (const run of waiting) {
    if (run.ready) return run.slots <= freeSlots ? run : undefined;
  }
  return undefined;
}

/** A run never takes more than the node has: the node may have come back smaller than the one that it was leased for. */
export function slotsOf(wanted: number, nodeSlots: number): number {
  return Math.max(1, Math.min(wanted, nodeSlots));
}

/** A run's share of the node's memory. */
export function memoryShareBytes(nodeMemoryMiB: number, slots: number, nodeSlots: number): number {
  return Math.floor((nodeMemoryMiB * 1024 * 1024 * slots) / nodeSlots);
}
