import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { bodyToSend, limitNetwork, PIECE_BYTES_MAX } from "./upload.ts";

const TIMES = { pieceMs: 1, answerMs: 2 };

/** A limit that writes down what is done with it. */
function watchLimit() {
  const events: string[] = [];
  const limit = { start: (ms: number) => void events.push(`start ${ms}`), stop: () => void events.push("stop") };
  return { events, limit };
}

describe("a body", () => {
  it("of a short text goes in one, and leaves the limit alone", () => {
    const { events, limit } = watchLimit();
    const text = "x".repeat(PIECE_BYTES_MAX);
    expect([bodyToSend(text, limit, TIMES), events]).toEqual([text, []]);
  });

  it("of a long text goes in pieces, each with the time to itself", async () => {
    const { events, limit } = watchLimit();
    const text = "é".repeat(PIECE_BYTES_MAX);
    const pieces: Uint8Array[] = [];
    for await (const piece of bodyToSend(text, limit, TIMES) as ReadableStream<Uint8Array>) {
      pieces.push(piece);
      events.push(`sent ${piece.length}`);
    }
    const sent = ["start 1", `sent ${PIECE_BYTES_MAX}`];
    expect(events).toEqual(["stop", ...sent, ...sent, "stop", "start 2"]);
    expect(Buffer.concat(pieces).toString()).toBe(text);
  });

  it("that is still made has no limit while the next part is made, and one for the answer after the last", async () => {
    const { events, limit } = watchLimit();
    const make = async function* () {
      events.push("make");
      yield new Uint8Array(PIECE_BYTES_MAX + 1);
      events.push("make");
      yield new Uint8Array(5);
    };
    for await (const piece of bodyToSend(make(), limit, TIMES) as ReadableStream<Uint8Array>)
      events.push(`sent ${piece.length}`);
    const first = ["make", "start 1", `sent ${PIECE_BYTES_MAX}`, "start 1", "sent 1", "stop"];
    expect(events).toEqual(["stop", ...first, "make", "start 1", "sent 5", "stop", "start 2"]);
  });
});

describe("the limit", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("counts from its last start, and not while it is stopped", () => {
    const limit = limitNetwork();
    limit.start(100);
    vi.advanceTimersByTime(99);
    limit.start(100);
    vi.advanceTimersByTime(99);
    limit.stop();
    vi.advanceTimersByTime(1_000);
    expect(limit.signal.aborted).toBe(false);
    limit.start(100);
    vi.advanceTimersByTime(100);
    expect(limit.signal.reason).toMatchObject({ name: "TimeoutError" });
  });

  it("leaves no timer once it has ended, even where something starts it again", () => {
    const limit = limitNetwork();
    limit.start(100);
    limit.end();
    limit.start(100);
    expect(vi.getTimerCount()).toBe(0);
  });
});
