import type { Run } from "@frazil/contracts";
import { backoffMs } from "./backoff.ts";
import { RefusedError } from "./control-plane-api.ts";

/** Plans of jobs that share one (retries, keys in batches, many frames with one plan) are fetched once. Memory only: a plan is a secret. */
const CACHE_BYTES_MAX = 128 * 1024 * 1024;
const TRIES_MAX = 5;
const RETRY_BASE_MS = 100;
const RETRY_CAP_MS = 2_000;

export interface Plans {
  /** The bytes of a run's plan; at once when the lease carried them. */
  bytesOf(run: Pick<Run, "plan" | "planId">): Buffer | Promise<Buffer>;
  /** Fetches ahead of a run that waits. */
  prefetch(run: Pick<Run, "plan" | "planId">): void;
}

export function createPlans(fetchPlan: (planId: string) => Promise<Buffer>): Plans {
  const cached = new Map<string, Buffer>();
  const fetching = new Map<string, Promise<Buffer>>();
  let cachedBytes = 0;

  function keep(planId: string, bytes: Buffer): void {
    cached.set(planId, bytes);
    cachedBytes += bytes.length;
    for (const [oldest, old] of cached) {
      if (cachedBytes <= CACHE_BYTES_MAX) break;
      cached.delete(oldest);
      cachedBytes -= old.length;
    }
  }

  function load(planId: string): Promise<Buffer> {
    const underway = fetching.get(planId);
    if (underway !== undefined) return underway;
    const load = fetchWithRetries(planId).finally(() => fetching.delete(planId));
    fetching.set(planId, load);
    return load;
  }

  async function fetchWithRetries(planId: string): Promise<Buffer> {
    for (let tries = 1; ; tries += 1) {
      try {
        const bytes = await fetchPlan(planId);
        keep(planId, bytes);
        return bytes;
      } catch (error) {
        if (tries >= TRIES_MAX || (error instanceof RefusedError && error.final)) throw error;
        await new Promise((resolve) => setTimeout(resolve, backoffMs(tries, RETRY_BASE_MS, RETRY_CAP_MS)));
      }
    }
  }

  return {
    bytesOf(run) {
      if (run.plan !== null) return Buffer.from(run.plan, "base64");
      const bytes = cached.get(run.planId);
      if (bytes === undefined) return load(run.planId);
      // Last used, last dropped.
      cached.delete(run.planId);
      cached.set(run.planId, bytes);
      return bytes;
    },
    prefetch(run) {
      if (run.plan === null && !cached.has(run.planId) && !fetching.has(run.planId)) load(run.planId).catch(() => {});
    },
  };
}
