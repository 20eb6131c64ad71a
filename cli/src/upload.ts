/** Of bodies that are longer, each piece has the time limit to itself, so that a slow connection may take as long as it needs. */
export const PIECE_BYTES_MAX = 64 * 1024;

/** A time limit for the network alone: it is stopped while something else is waited for. */
export interface NetworkLimit {
  /** Aborted with a TimeoutError once the time is over. */
  readonly signal: AbortSignal;
  /** Starts it, or starts it anew. */
  start(ms: number): void;
  stop(): void;
  /** Stops it for good: what still makes a body that nobody reads any more can't start it again. */
  end(): void;
}

export function limitNetwork(): NetworkLimit {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let ended = false;
  const stop = () => clearTimeout(timer);
  return {
    signal: controller.signal,
    start(ms) {
      stop();
      if (ended) return;
      timer = setTimeout(() => controller.abort(new DOMException("the time is over", "TimeoutError")), ms);
      timer.unref();
    },
    stop,
    end() {
      ended = true;
      stop();
    },
  };
}

/** A body as fetch takes it: a short text as it is, all else in pieces. */
export function bodyToSend(
  made: string | AsyncIterable<Uint8Array>,
  limit: Pick<NetworkLimit, "start" | "stop">,
  times: { readonly pieceMs: number; readonly answerMs: number },
): string | ReadableStream<Uint8Array> {
  if (typeof made !== "string") return ReadableStream.from(piecesWithin(made, limit, times));
  if (Buffer.byteLength(made) <= PIECE_BYTES_MAX) return made;
  return ReadableStream.from(piecesWithin([Buffer.from(made)], limit, times));
}

/** A piece is asked for when the one before has gone to the network: until then the time counts, and again from the last piece to the answer. */
async function* piecesWithin(
  source: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  limit: Pick<NetworkLimit, "start" | "stop">,
  { pieceMs, answerMs }: { readonly pieceMs: number; readonly answerMs: number },
): AsyncGenerator<Uint8Array> {
  limit.stop();
  for await (const bytes of source) {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES_MAX) {
      limit.start(pieceMs);
      yield bytes.subarray(at, at + PIECE_BYTES_MAX);
    }
    // The source may take long over the next ones: that is not the network's fault.
    limit.stop();
  }
  limit.start(answerMs);
}
