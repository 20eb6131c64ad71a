import { expect, test } from "vitest";
import { nextSampleMs } from "./supervisor.ts";

const MIB = 1024 * 1024;
const watch = { limitBytes: 1_000 * MIB, usedBytes: 500 * MIB, growthBytesPerMs: 0 };

test.runIf(process.platform === "linux")("memory is looked at the sooner, the sooner it would be used up", () => {
  expect(nextSampleMs(watch, 60_000)).toBe(100);
  expect(nextSampleMs(watch, 10)).toBe(25);
  // 500 MiB at 10 MiB/ms: 50 ms to go, so look after 25.
  expect(nextSampleMs({ ...watch, growthBytesPerMs: 10 * MIB }, 60_000)).toBe(25);
  expect(nextSampleMs({ ...watch, growthBytesPerMs: 1_000 * MIB }, 60_000)).toBe(10);
  expect(nextSampleMs({ ...watch, growthBytesPerMs: 1 }, 60_000)).toBe(100);
});
