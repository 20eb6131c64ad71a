import { setTimeout as delay } from "node:timers/promises";

/** A machine under load takes its time; what is not so by then never will be. */
const DEADLINE_MS = 20_000;
const POLL_MS = 20;

/** Looks again and again until the expectation holds; after the deadline it fails as that did last. */
export async function eventually(expectation: () => void): Promise<void> {
  const deadlineAt = performance.now() + DEADLINE_MS;
  for (;;) {
    try {
      expectation();
      return;
    } catch (error) {
      if (performance.now() > deadlineAt) throw error;
    }
    await delay(POLL_MS);
  }
}
