import { createParser } from "eventsource-parser";
import { CliError } from "./cli-error.ts";
import { EXIT } from "./exit-codes.ts";

/** The server sends a comment every 15 s; a stream that is silent for longer than this is taken for broken. */
export const SILENCE_MAX_MS = 45_000;

interface ServerEvent {
  readonly event: string;
  readonly data: string;
}

/** Server-sent events out of an answer's chunks. Ends when the answer does; throws `unreachable` when it breaks or falls silent. */
export async function* readEvents(
  chunks: AsyncIterable<Uint8Array>,
  silenceMaxMs = SILENCE_MAX_MS,
): AsyncGenerator<ServerEvent> {
  const found: ServerEvent[] = [];
  const parser = createParser({ onEvent: ({ event, data }) => found.push({ event: event ?? "message", data }) });
  const decoder = new TextDecoder();
  const iterator = chunks[Symbol.asyncIterator]();
  try {
    while (true) {
      const next = await nextWithin(iterator, silenceMaxMs);
      if (next.done) return;
      parser.feed(decoder.decode(next.value, { stream: true }));
      yield* found.splice(0);
    }
  } finally {
    // The answer may never end by itself: let go of it without waiting.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}

async function nextWithin<T>(iterator: AsyncIterator<T>, limitMs: number): Promise<IteratorResult<T>> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(brokenStream(`nothing came for ${limitMs / 1_000} s`)), limitMs);
  });
  try {
    return await Promise.race([iterator.next(), silence]);
  } catch (error) {
    throw error instanceof CliError ? error : brokenStream((error as Error).message);
  } finally {
    clearTimeout(timer);
  }
}

function brokenStream(reason: string): CliError {
  return new CliError("unreachable", EXIT.noServer, `the server's event stream broke: ${reason}`);
}
