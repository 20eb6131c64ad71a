import { describe, expect, it } from "vitest";
import { formatAgo, formatBytes, formatClock, formatCount, formatDuration, withoutControls } from "./format.ts";

const NOW = Date.parse("2026-01-02T00:00:00Z");

describe("formatDuration", () => {
  it.each([
    [-5, "0 ms"],
    [35, "35 ms"],
    [999.4, "999 ms"],
    [1_449, "1.4 s"],
    [59_999, "59 s"],
    [185_000, "3 min 05 s"],
    [7_800_000, "2 h 10 min"],
    [273_600_000, "3 d 4 h"],
  ])("%d ms is %s", (ms, text) => expect(formatDuration(ms)).toBe(text));
});

describe("formatAgo", () => {
  it.each([
    ["2026-01-01T23:59:59.500Z", "now"],
    ["2026-01-02T00:01:00Z", "now"],
    ["2026-01-01T23:59:48Z", "12 s ago"],
    ["2026-01-01T23:00:01Z", "59 min ago"],
    ["2026-01-01T00:00:00Z", "1 d ago"],
  ])("%s is %s", (time, text) => expect(formatAgo(time, NOW)).toBe(text));
});

describe("other formats", () => {
  it("clocks show hours only when there are any", () => {
    expect(formatClock(7_900)).toBe("00:07");
    expect(formatClock(3_723_000)).toBe("1:02:03");
    expect(formatClock(-1)).toBe("00:00");
  });

  it("bytes and counts are short", () => {
    expect([0, 1023, 1536, 20 * 1024 ** 2].map(formatBytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "20 MiB"]);
    expect([formatCount(1, "row"), formatCount(12345, "row")]).toEqual(["1 row", "12,345 rows"]);
  });

  it("control characters go, newlines and tabs stay", () => {
    expect(withoutControls("a\u001b[31mb\r\n\tc\u0007")).toBe("a[31mb\n\tc");
  });
});
