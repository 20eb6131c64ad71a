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

  it("fails those of a failed flush alone, and goes on", async () => {
    const add = makeBatcher<number, number>(async (items) => {
      if (items.includes(13)) throw new Error("unlucky");
      return items;
    });
    await expect(add(13)).rejects.toThrow("unlucky");
    expect(await add(14)).toBe(14);
  });
});
