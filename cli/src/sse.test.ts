import { describe, expect, it } from "vitest";
import { readEvents } from "./sse.ts";

async function* chunksOf(...texts: (string | Buffer)[]) {
  for (const text of texts) yield Buffer.from(text);
}
async function all(chunks: AsyncIterable<Uint8Array>, silenceMaxMs?: number) {
  const found = [];
  for await (const event of readEvents(chunks, silenceMaxMs)) found.push(event);
  return found;
}

describe("readEvents", () => {
  it("puts events together from chunks that end anywhere, in the middle of a character, too", async () => {
    const bytes = Buffer.from('event: log\ndata: "é"\n\n: comment\n\ndata: 1\ndata: 2\n\n');
    const at = bytes.indexOf(0xa9);
    expect(await all(chunksOf(bytes.subarray(0, at), bytes.subarray(at)))).toEqual([
      { event: "log", data: '"é"' },
      { event: "message", data: "1\n2" },
    ]);
  });

  it("takes silence for a broken connection, and lets go of it", async () => {
    let released = false;
    const silent: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise(() => {}),
        return: async () => {
          released = true;
          return { done: true, value: undefined };
        },
      }),
    };
    await expect(all(silent, 20)).rejects.toMatchObject({ code: "unreachable" });
    expect(released).toBe(true);
  });

  it("names a connection that breaks", async () => {
    const breaking = (async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("data: 1\n\n");
      throw new Error("terminated");
    })();
    await expect(all(breaking)).rejects.toMatchObject({
      code: "unreachable",
      message: expect.stringContaining("terminated"),
    });
  });
});
