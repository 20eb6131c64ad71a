import { expect, test } from "vitest";
import { percentile } from "./statistics.ts";

test("a percentile is the smallest value that at least this share of the values does not exceed", () => {
  const values = Array.from({ length: 200 }, (_, index) => 200 - index);
  for (const share of [0.5, 0.9, 0.99, 1]) {
    const found = percentile(values, share);
    const below = values.filter((value) => value <= found).length;
    const smaller = values.filter((value) => value < found).length;
    expect(below / values.length).toBeGreaterThanOrEqual(share);
    expect(smaller / values.length).toBeLessThan(share);
  }
});

test("one value is every percentile", () => {
  expect([percentile([7], 0.01), percentile([7], 0.99)]).toEqual([7, 7]);
});
