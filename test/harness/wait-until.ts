import { setTimeout as delay } from "node:timers/promises";

const DEADLINE_DEFAULT_MS = 10_000;
const POLL_MS = 10;

/** Looks again and again until `look` gives something other than undefined or false; fails, saying what was waited for, after the deadline. */
export async function waitUntil<T>(
  what: string,
  look: () => T | Promise<T>,
  deadlineMs = DEADLINE_DEFAULT_MS,
): Promise<Exclude<T, false | undefined>> {
  const deadlineAt = performance.now() + deadlineMs;
  for (;;) {
    const value = await look();
    if (value !== false && value !== undefined) return value as Exclude<T, false | undefined>;
    if (performance.now() > deadlineAt) throw new Error(`waited ${deadlineMs} ms in vain until ${what}`);
    await delay(POLL_MS);
  }
}
