import { describe, expect, it } from "vitest";
import { makeBatcher } from "./batcher.ts";

describe("a batcher", () => {
  it("flushes a lone item at once, and gathers what comes meanwhile", async () => {
    const batches: number[][] = [];
    let open: () => void = () => undefined;
    const add = makeBatcher<number, number>(async (items) => {
      batches.push(items);
      if (batches.length === 1)
        await new Promise<void>((resolve) => {
          open = resolve;
        });
      return items.map((item) => item * 10);
    });
    const first = add(1);
    const rest = [add(2), add(3), add(4)];
    open();
    expect(await Promise.all([first, ...rest])).toEqual([10, 20, 30, 40]);
    expect(batches).toEqual([[1], [2, 3, 4]]);
  });

  it("fails the one that can't be flushed, none of those that came with it, and goes on", async () => {
    const add = makeBatcher<number, number>(async (items) => {
      await Promise.resolve();
      if (items.includes(13)) throw new Error("unlucky");
      return items;
    });
    const answers = await Promise.allSettled([1, 12, 13, 14].map((item) => add(item)));
    expect(answers.map((answer) => (answer.status === "fulfilled" ? answer.value : answer.reason.message))).toEqual([
      1,
      12,
      "unlucky",
      14,
    ]);
    await expect(add(13)).rejects.toThrow("unlucky");
    expect(await add(15)).toBe(15);
  });

  it("does not try hundreds one by one when nothing can be flushed at all", async () => {
    let flushes = 0;
    const add = makeBatcher<number, number>(async () => {
      await Promise.resolve();
      flushes += 1;
      throw new Error("no database");
    });
    const answers = await Promise.allSettled(Array.from({ length: 100 }, (_, item) => add(item)));
    expect(answers.every((answer) => answer.status === "rejected")).toBe(true);
    expect(flushes).toBeLessThan(10);
  });
});
