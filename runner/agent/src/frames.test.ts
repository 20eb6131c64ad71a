import fc from "fast-check";
import { expect, test } from "vitest";
import { createFrameReader, encodeFrame, FrameError } from "./frames.ts";

test("frames come out as they went in, however the bytes are cut", () => {
  const frame = fc.record({
    header: fc.dictionary(fc.string(), fc.jsonValue()),
    body: fc.uint8Array({ maxLength: 300 }),
  });
  fc.assert(
    fc.property(
      fc.array(frame, { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 97 }), { minLength: 1 }),
      (frames, cuts) => {
        const bytes = Buffer.concat(frames.map(({ header, body }) => encodeFrame(header, body)));
        const reader = createFrameReader();
        const read: unknown[] = [];
        for (let at = 0, cut = 0; at < bytes.length; cut += 1) {
          const length = cuts[cut % cuts.length] as number;
          for (const { header, body } of reader.push(bytes.subarray(at, at + length)))
            read.push({ header, body: [...body] });
          at += length;
        }
        const sent = frames.map(({ header, body }) => ({
          header: JSON.parse(JSON.stringify(header)),
          body: [...body],
        }));
        expect(read).toEqual(sent);
      },
    ),
  );
});

test("the layout is two little-endian lengths, the header, and the body", () => {
  const frame = encodeFrame({ a: "é" }, Buffer.from([1, 2, 3]));
  expect([...frame]).toEqual([10, 0, 0, 0, 3, 0, 0, 0, ...Buffer.from('{"a":"é"}'), 1, 2, 3]);
});

test.each([
  ["text", Buffer.from("Traceback (most recent call last):")],
  ["a header that is not an object", Buffer.from([3, 0, 0, 0, 0, 0, 0, 0, 0x5b, 0x31, 0x5d])],
  ["a header that is not JSON", Buffer.from([3, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x31, 0x7d])],
  ["no header", Buffer.alloc(8)],
])("%s is refused", (_what, bytes) => {
  expect(() => createFrameReader().push(bytes)).toThrow(FrameError);
});

test("a frame over the limit is refused before its bytes are there", () => {
  const frame = encodeFrame({ type: "done" }, Buffer.alloc(100));
  expect(() => createFrameReader(frame.length - 1).push(frame.subarray(0, 8))).toThrow(FrameError);
  expect(createFrameReader(frame.length).push(frame)).toHaveLength(1);
});
