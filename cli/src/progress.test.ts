import { describe, expect, it } from "vitest";
import { plain } from "./paint.ts";
import { openProgress, progressLine } from "./progress.ts";
import { openSession } from "./session.ts";
import { countsOf, makeJob, START } from "./testing/fake-data.ts";
import { fakeIo } from "./testing/fake-io.ts";

const TEN_SECONDS_LATER = Date.parse(START) + 10_000;
const look = (width: number, unicode = true) => ({ nowMs: TEN_SECONDS_LATER, width, unicode, paint: plain });
const many = makeJob({
  mode: "many",
  status: "running",
  startedAt: START,
  counts: countsOf({ total: 40, succeeded: 17, failed: 3, running: 2, queued: 18 }),
});

describe("progressLine", () => {
  it("of many tasks has a bar, counts, failures, rate and time", () => {
    expect(progressLine(many, look(100))).toBe(
      "running    ━━━━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  20/40  3 failed  2.0/s  00:10",
    );
  });

  it("has a bar of plain characters where others can't be shown", () => {
    expect(progressLine(many, look(60, false))).toBe("running    #########---------  20/40  3 failed  2.0/s  00:10");
  });

  it("of one task has the phase and the time", () => {
    const job = makeJob({ phase: "starting 1 node" });
    expect(progressLine(job, look(80))).toBe("queued     starting 1 node  00:10");
  });

  it.each([20, 25, 30, 40, 50, 79, 200])("fits into %i columns", (width) => {
    const wordy = { ...many, phase: "reading a lot of files from a bucket far away" };
    expect(progressLine(wordy, look(width)).length).toBeLessThanOrEqual(
      Math.max(width, "running    20/40  3 failed".length),
    );
  });

  it("shows no rate before the job runs", () => {
    expect(progressLine({ ...many, startedAt: null }, look(100))).not.toContain("/s");
  });
});

describe("openProgress", () => {
  const shown = async (columns: number | undefined, quiet: boolean) => {
    const io = fakeIo({ ...(columns === undefined ? {} : { columns }), nowMs: TEN_SECONDS_LATER });
    const progress = await openProgress(openSession(io, { quiet, color: false }), many);
    progress.update(many);
    progress.stop();
    return io.err();
  };

  it("draws on a terminal, gives the cursor back, and leaves stdout alone", async () => {
    const text = await shown(100, false);
    expect(text).toContain("20/40");
    expect(text.lastIndexOf("\u001b[?25h")).toBeGreaterThan(text.lastIndexOf("\u001b[?25l"));
  });

  it("draws nothing into a pipe, nor with --quiet", async () => {
    expect(await shown(undefined, false)).toBe("");
    expect(await shown(100, true)).toBe("");
  });
});
