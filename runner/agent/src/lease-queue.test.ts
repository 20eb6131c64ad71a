import fc from "fast-check";
import { expect, test } from "vitest";
import { chooseNext, memoryShareBytes, slotsOf } from "./lease-queue.ts";

const ready = (slots: number) => ({ slots, ready: true });

test("the first run that is ready starts when it fits, and is not overtaken when it does not", () => {
  const whole = ready(4);
  const small = ready(1);
  expect(chooseNext([whole, small], 4)).toBe(whole);
  expect(chooseNext([whole, small], 3)).toBeUndefined();
  expect(chooseNext([small, whole], 3)).toBe(small);
});

test("a run whose environment is being made holds up nobody", () => {
  const small = ready(1);
  expect(chooseNext([{ slots: 1, ready: false }, small], 1)).toBe(small);
  expect(chooseNext([{ slots: 1, ready: false }], 1)).toBeUndefined();
});

test("runs never take more slots or memory together than the node has", () => {
  const node = { slots: fc.integer({ min: 1, max: 64 }), memoryMiB: fc.integer({ min: 256, max: 65_536 }) };
  const wanted = fc.array(fc.integer({ min: 1, max: 100 }), { maxLength: 40 });
  fc.assert(
    fc.property(node.slots, node.memoryMiB, wanted, (slots, memoryMiB, asked) => {
      const waiting = asked.map((count) => ready(slotsOf(count, slots)));
      let free = slots;
      let bytes = 0;
      for (let next = chooseNext(waiting, free); next !== undefined; next = chooseNext(waiting, free)) {
        waiting.splice(waiting.indexOf(next), 1);
        free -= next.slots;
        bytes += memoryShareBytes(memoryMiB, next.slots, slots);
      }
      expect(free).toBeGreaterThanOrEqual(0);
      expect(bytes).toBeLessThanOrEqual(memoryMiB * 1024 * 1024);
      // Whatever was asked for, the first of the rest starts when the node is empty.
      if (waiting.length > 0) expect(chooseNext(waiting, slots)).toBe(waiting[0]);
    }),
  );
});
