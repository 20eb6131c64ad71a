import { describe, expect, it } from "vitest";
import { emptyInMs, type GivenRun, isAheadLate, splitAhead } from "./ahead.ts";

const run = (over: Partial<GivenRun> = {}): GivenRun => ({ slots: 1, ageMs: 10, taskMs: 100, ...over });

describe("what a node was given", () => {
  it("has a slot in the order in which it was given, the rest was sent ahead", () => {
    const runs = [run(), run({ slots: 2 }), run(), run()];
    expect(splitAhead(runs, 3)).toEqual({ begun: runs.slice(0, 2), ahead: runs.slice(2) });
    expect(splitAhead(runs, 8)).toEqual({ begun: runs, ahead: [] });
  });

  it("is done when the longest of what runs is, and then what was sent ahead, on all slots", () => {
    expect(emptyInMs([], 2)).toBe(0);
    expect(emptyInMs([run(), run({ taskMs: 500 })], 2)).toBe(490);
    expect(emptyInMs([run(), run(), run({ taskMs: 40 }), run({ taskMs: 20 })], 2)).toBe(90 + 30);
  });

  it("is expected to take as long again where nobody knows", () => {
    expect(emptyInMs([run({ taskMs: undefined, ageMs: 60_000 })], 1)).toBe(60_000);
    expect(emptyInMs([run({ taskMs: 100, ageMs: 7_000 })], 1)).toBe(7_000);
  });

  it("is late when what was sent ahead has waited, or will wait, for longer than it should", () => {
    const short = Array.from({ length: 50 }, () => run({ taskMs: 5 }));
    expect(isAheadLate(short, 2, 150)).toBe(false);
    expect(isAheadLate([run({ taskMs: 9_000 }), run({ taskMs: 9_000 })], 2, 150)).toBe(false);
    expect(
      isAheadLate(
        short.map((one) => ({ ...one, taskMs: 1_000 })),
        2,
        150,
      ),
    ).toBe(true);
    expect(
      isAheadLate(
        short.map((one) => ({ ...one, ageMs: 200 })),
        2,
        150,
      ),
    ).toBe(true);
  });
});
