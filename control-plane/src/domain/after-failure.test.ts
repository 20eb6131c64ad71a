import { ERRORS, type ErrorCode } from "@frazil/contracts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideAfterFailure, decideAfterRelease, RELEASES_MAX } from "./after-failure.ts";

const lost = { code: "node_lost", retryable: true, tries: 1, attemptsMax: 4, publishing: false } as const;

describe("after a failed attempt", () => {
  it("tries a lost node's task again until the attempts are used up", () => {
    const kinds = [1, 2, 3, 4].map((tries) => decideAfterFailure({ ...lost, tries }, 0).kind);
    expect(kinds).toEqual(["retry", "retry", "retry", "fail"]);
  });

  it("never tries a user's error again", () => {
    const users = (Object.keys(ERRORS) as ErrorCode[]).filter((code) => ERRORS[code].fault === "user-code");
    expect(users.length).toBeGreaterThan(3);
    for (const code of users) expect(decideAfterFailure({ ...lost, code }, 0)).toEqual({ kind: "fail" });
  });

  it("believes the engine when it says that a retry can't help", () => {
    expect(decideAfterFailure({ ...lost, code: "storage_failed", retryable: false }, 0)).toEqual({ kind: "fail" });
  });

  it("goes on longer with a publishing, which must not be left half-way", () => {
    expect(decideAfterFailure({ ...lost, tries: 4, publishing: true }, 0).kind).toBe("retry");
    expect(decideAfterFailure({ ...lost, tries: 9, publishing: true }, 0).kind).toBe("fail");
  });

  it("waits longer each time, at most 30 s, and never less than half of that", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 19 }), fc.double({ min: 0, max: 0.999, noNaN: true }), (tries, random) => {
        const after = decideAfterFailure({ ...lost, tries, attemptsMax: 20 }, random);
        const ceiling = Math.min(30_000, 200 * 2 ** (tries - 1));
        return after.kind === "retry" && after.delayMs >= Math.floor(ceiling / 2) && after.delayMs <= ceiling;
      }),
    );
  });
});

describe("after a node gave a task back", () => {
  it("gives it to the next at once, then with growing waits, and fails it in the end", () => {
    expect([1, 2, 3].map((releases) => decideAfterRelease(releases, 0))).toEqual(
      [1, 2, 3].map(() => ({ kind: "retry", delayMs: 0 })),
    );
    expect(decideAfterRelease(4, 0)).toEqual({ kind: "retry", delayMs: 100 });
    expect(decideAfterRelease(RELEASES_MAX, 0)).toEqual({ kind: "retry", delayMs: 15_000 });
    expect(decideAfterRelease(RELEASES_MAX + 1, 0)).toEqual({ kind: "fail" });
  });
});
