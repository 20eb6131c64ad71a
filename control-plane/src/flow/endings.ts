import type { JobReading } from "./deps.ts";

const KEPT_MAX = 64;
/** Whoever waited has been told by then; who comes later asks the database. */
const KEPT_MS = 1_000;

/** Jobs that ended in this process a moment ago, as they were committed: who waits for one need not ask the database again. */
export interface Endings {
  keep(reading: JobReading): void;
  of(workspaceId: string, jobId: string): JobReading | undefined;
}

export function makeEndings(): Endings {
  const kept = new Map<string, { reading: JobReading; atMs: number }>();
  return {
    keep(reading) {
      kept.set(reading.job.id, { reading, atMs: performance.now() });
      if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value as string);
    },
    of(workspaceId, jobId) {
      const found = kept.get(jobId);
      if (found === undefined || performance.now() - found.atMs > KEPT_MS) return undefined;
      return found.reading.job.workspace_id === workspaceId ? found.reading : undefined;
    },
  };
}
