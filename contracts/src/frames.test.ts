import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { makeFrameWriter, messagesOfFrame } from "./frames.ts";
import { NODE_MESSAGE_BYTES_MAX } from "./limits.ts";

beforeEach(() => void vi.useFakeTimers({ toFake: ["setImmediate"] }));
afterEach(() => void vi.useRealTimers());

function writer() {
  const frames: string[] = [];
  return { frames, ...makeFrameWriter<unknown>((frame) => frames.push(frame)) };
}
const read = (frames: readonly string[]) => frames.flatMap((frame) => messagesOfFrame(JSON.parse(frame)));

describe("a frame writer", () => {
  it("sends a lone message as it is, once the turn is over", () => {
    const { frames, write } = writer();
    write({ a: 1 });
    expect(frames).toEqual([]);
    vi.runAllTimers();
    expect(frames).toEqual(['{"a":1}']);
  });

  it("sends messages of one turn in one frame, in their order, and those of the next in another", () => {
    const { frames, write } = writer();
    for (let at = 0; at < 5; at++) write({ at });
    vi.runAllTimers();
    write({ at: 5 });
    vi.runAllTimers();
    expect(frames).toHaveLength(2);
    expect(read(frames)).toEqual([0, 1, 2, 3, 4, 5].map((at) => ({ at })));
  });

  it("never makes a frame larger than its limit, whatever characters there are", () => {
    const { frames, write, flush } = writer();
    const messages = Array.from({ length: 300 }, (_, at) => ({ at, text: "é漢".repeat(at * 3) }));
    for (const message of messages) expect(write(message)).toBe(true);
    flush();
    expect(Math.max(...frames.map((frame) => Buffer.byteLength(frame)))).toBeLessThanOrEqual(NODE_MESSAGE_BYTES_MAX);
    expect(read(frames)).toEqual(messages);
  });

  it("refuses what no frame can hold, and takes what just fits", () => {
    const { frames, write, flush } = writer();
    expect(write("x".repeat(NODE_MESSAGE_BYTES_MAX))).toBe(false);
    expect(write("x".repeat(NODE_MESSAGE_BYTES_MAX - 2))).toBe(true);
    flush();
    expect(frames.map((frame) => frame.length)).toEqual([NODE_MESSAGE_BYTES_MAX]);
  });
});
