import { setTimeout as delay } from "node:timers/promises";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "./embedded-postgres.ts";

/** A start may meet what a killed server has left for a moment; one that fails so often in a row does not come back by itself. */
const STARTS_MAX = 10;
const RESTART_FIRST_MS = 100;
const RESTART_MAX_MS = 2_000;

export interface KeptPostgres {
  readonly url: string;
  /** Rejects when it can't be started again. */
  readonly failed: Promise<never>;
  stop(): Promise<void>;
}

/** Keeps a Postgres running: one that ends without being asked to is started again, on the same data and at the same port. */
export async function keepPostgres(dir: string, say: (line: string) => void): Promise<KeptPostgres> {
  const stopping = new AbortController();
  const { promise: failed, reject: fail } = Promise.withResolvers<never>();
  failed.catch(() => undefined);
  let current: EmbeddedPostgres = await startEmbeddedPostgres({ dir });
  const { url, port } = current;

  async function startAgain(code: number): Promise<void> {
    say(`Postgres ended (exit code ${code}); starting it again ...`);
    // Gives up the claim on the data.
    await current.stop();
    for (let start = 1; !stopping.signal.aborted; start += 1) {
      try {
        current = await startEmbeddedPostgres({ dir, port });
        watch();
        return;
      } catch (error) {
        if (start === STARTS_MAX) throw error;
        const pauseMs = Math.min(RESTART_MAX_MS, RESTART_FIRST_MS * 2 ** (start - 1));
        await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  }

  let restarting: Promise<void> = Promise.resolve();
  function watch(): void {
    void current.exited.then((code) => {
      if (stopping.signal.aborted) return;
      restarting = startAgain(code).catch((error: Error) => {
        fail(new Error(`Postgres ended and could not be started again: ${error.message}`));
      });
    });
  }
  watch();
  return {
    url,
    failed,
    async stop() {
      stopping.abort();
      await restarting;
      await current.stop();
    },
  };
}
