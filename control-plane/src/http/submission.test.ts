import { createHash } from "node:crypto";
import { Problem } from "@frazil/contracts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { parse, readLines } from "./submission.ts";

const IDLE_MS = 10_000;

function streamOf(pieces: readonly Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
}

async function linesOf(pieces: readonly Uint8Array[]): Promise<{ lines: string[]; digest: string }> {
  const digest = createHash("sha256");
  const lines: string[] = [];
  for await (const line of readLines(streamOf(pieces), digest, IDLE_MS)) lines.push(line);
  return { lines, digest: digest.digest("hex") };
}

/** Cuts bytes at these places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...ends].map((from, index) => bytes.subarray(from, ends[index] ?? bytes.length));
}

describe("lines of a streamed body", () => {
  it("are the same however the body is cut, also in the middle of a character, and so is the digest", async () => {
    const line = fc.string({ unit: fc.constantFrom("a", "é", "日", "😀", "\r", " "), maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(line, { minLength: 1, maxLength: 6 }),
        fc.array(fc.nat(), { maxLength: 8 }),
        async (given, places) => {
          const bytes = Buffer.from(given.map((text) => `${text}\n`).join(""));
          const { lines, digest } = await linesOf(cut(bytes, places));
          expect(lines).toEqual(given);
          expect(digest).toBe(createHash("sha256").update(bytes).digest("hex"));
        },
      ),
    );
  });

  it("include a last one without an end, unless it is blank", async () => {
    expect((await linesOf([Buffer.from("a\nb")])).lines).toEqual(["a", "b"]);
    expect((await linesOf([Buffer.from("a\n  ")])).lines).toEqual(["a"]);
    expect((await linesOf([])).lines).toEqual([]);
  });

  it("are refused when one has no end in sight", async () => {
    const piece = new Uint8Array(8 * 1024 * 1024).fill(97);
    const reading = linesOf(Array.from({ length: 12 }, () => piece));
    await expect(reading).rejects.toMatchObject({
      code: "too_large",
      detail: expect.stringMatching(/^Line 1 has more than 94371840 bytes/),
    });
  });
});

describe("checking what was sent", () => {
  it("names the first fault in its text, and lists all", () => {
    const schema = z.object({ a: z.object({ b: z.number() }), c: z.string() });
    try {
      parse(schema, { a: { b: "x" }, c: 1 }, "The body");
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(Problem);
      const problem = error as Problem;
      expect([problem.code, problem.issues?.map((issue) => issue.path)]).toEqual(["invalid_request", ["a.b", "c"]]);
      expect(problem.detail).toMatch(/^The body does not fit: a[.]b: /);
    }
  });
});
