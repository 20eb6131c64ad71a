import { LOG_LINE_CHARS_MAX } from "@frazil/contracts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { createAttemptLog } from "./log-lines.ts";

const at = new Date("2026-01-02T03:04:05.678Z");

function linesOf(chunks: Buffer[], bytesMax?: number) {
  const log = createAttemptLog(bytesMax);
  const lines = [...chunks.flatMap((chunk) => log.write("stdout", chunk, at)), ...log.end(at)];
  expect(lines.map((line) => line.seq)).toEqual(lines.map((_line, index) => index));
  return lines.map((line) => line.text);
}

test("lines do not depend on how the bytes were cut, not even inside a character", () => {
  const text = fc.array(fc.string({ unit: "grapheme" }).map((line) => line.replaceAll(/[\r\n\0]/g, "")));
  fc.assert(
    fc.property(text, fc.integer({ min: 1, max: 7 }), (lines, size) => {
      const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_chunk, index) =>
        bytes.subarray(index * size, (index + 1) * size),
      );
      expect(linesOf(chunks)).toEqual(lines);
    }),
  );
});

test("bytes that are not text are replaced, and so is what a database refuses", () => {
  expect(linesOf([Buffer.from([0x61, 0xff, 0x62, 0x0a]), Buffer.from("x\0y\n"), Buffer.from([0xe2, 0x82])])).toEqual([
    "a\uFFFDb",
    "x\uFFFDy",
    "\uFFFD",
  ]);
  expect(createAttemptLog().writeLine("stderr", "half \uD800 a pair", at)[0]?.text).toBe("half \uFFFD a pair");
});

test("of a line that is written over and over, what a terminal would show last is kept", () => {
  expect(linesOf([Buffer.from("10%\r50%\r"), Buffer.from("100%\ndone\r\n")])).toEqual(["100%", "done"]);
});

test("a line over the limit is cut, and the next one is whole", () => {
  const long = "x".repeat(LOG_LINE_CHARS_MAX + 500);
  const [cut, next] = linesOf([Buffer.from(long), Buffer.from(`${long}\nnext\n`)]);
  expect(cut).toBe(`${"x".repeat(LOG_LINE_CHARS_MAX - 1)}…`);
  expect(next).toBe("next");
});

test("an attempt over its limit says so once, and nothing more", () => {
  const lines = linesOf([Buffer.from(`${"12345678\n".repeat(200)}`)], 1_024);
  // 113 lines of 9 bytes are 1,017 bytes.
  expect(lines).toHaveLength(114);
  expect(lines.at(-1)).toBe("The log of this attempt reached its limit of 1 KiB; the rest is dropped.");
});

test("a whole line does not mix with one that is being written", () => {
  const log = createAttemptLog();
  expect(log.write("stderr", Buffer.from("half"), at)).toEqual([]);
  expect(log.writeLine("stderr", "whole", at).map((line) => line.text)).toEqual(["whole"]);
  expect(log.end(at).map((line) => [line.seq, line.text])).toEqual([[1, "half"]]);
});
