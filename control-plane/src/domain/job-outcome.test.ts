import { describe, expect, it } from "vitest";
import { decideJobEnd, type JobTally, summariseFailures } from "./job-outcome.ts";

const tally = (over: Partial<JobTally>): JobTally => ({
  splitsOpen: 0,
  total: 3,
  succeeded: 0,
  failed: 0,
  cancelled: 0,
  ...over,
});
const error = { code: "query_failed", message: "no such column" } as const;

describe("a job's end", () => {
  it("waits for every task", () => {
    expect(decideJobEnd(tally({ succeeded: 2 }))).toBeUndefined();
    expect(decideJobEnd(tally({ succeeded: 2, failed: 1 }))).toBe("fail");
    expect(decideJobEnd(tally({ succeeded: 3 }))).toBe("succeed");
    expect(decideJobEnd(tally({ succeeded: 2, cancelled: 1 }))).toBe("cancel");
  });

  it("waits for keys to be found even when no task is there yet", () => {
    expect(decideJobEnd(tally({ total: 0, splitsOpen: 1 }))).toBeUndefined();
    expect(decideJobEnd(tally({ total: 0, splitsOpen: 0 }))).toBe("succeed");
  });

  it("is a failure when some failed before the rest was cancelled", () => {
    expect(decideJobEnd(tally({ failed: 1, cancelled: 2 }))).toBe("fail");
  });

  it("is a success when all tasks finished before the cancel reached them, unless some were cancelled", () => {
    expect(decideJobEnd(tally({ total: 1, succeeded: 1 }))).toBe("succeed");
    expect(decideJobEnd(tally({ total: 1, cancelled: 1 }))).toBe("cancel");
  });

  it("carries the task's own error for one task, and a count for many", () => {
    expect(summariseFailures(tally({ total: 1, failed: 1 }), error)).toEqual(error);
    expect(summariseFailures(tally({ failed: 2, succeeded: 1 }), error)?.message).toContain("2 of 3 tasks failed");
    expect(summariseFailures(tally({ succeeded: 3 }), error)).toBeNull();
  });
});
