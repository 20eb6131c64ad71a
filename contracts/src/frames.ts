import { NODE_MESSAGE_BYTES_MAX } from "./limits.ts";

/**
 * Text frames of a node's connection. A frame is one message, or a JSON array of messages that were said in one turn of the event loop: many small answers
 * then wake the other side once.
 */
export interface FrameWriter<Message> {
  /** False when this message alone is too large for a frame: it was not taken. */
  write(message: Message): boolean;
  /** Sends what waits at once. */
  flush(): void;
}

/** Gathers messages until the turn of the event loop is over, in their order. `send` gets frames of at most NODE_MESSAGE_BYTES_MAX. */
export function makeFrameWriter<Message>(send: (frame: string) => void): FrameWriter<Message> {
  let texts: string[] = [];
  let bytes = 0;
  const flush = () => {
    if (texts.length === 0) return;
    const frame = texts.length === 1 ? (texts[0] as string) : `[${texts.join(",")}]`;
    texts = [];
    bytes = 0;
    send(frame);
  };
  return {
    flush,
    write(message) {
      const text = JSON.stringify(message);
      // UTF-8 needs at most three bytes for a UTF-16 unit: most messages need no counting.
      const size = text.length * 3 <= NODE_MESSAGE_BYTES_MAX ? text.length * 3 : Buffer.byteLength(text);
      if (size > NODE_MESSAGE_BYTES_MAX) return false;
      // Brackets and commas.
      if (bytes + size + texts.length + 2 > NODE_MESSAGE_BYTES_MAX) flush();
      if (texts.length === 0) setImmediate(flush);
      texts.push(text);
      bytes += size;
      return true;
    },
  };
}

/** The messages of a frame. */
export function messagesOfFrame(frame: unknown): unknown[] {
  return Array.isArray(frame) ? frame : [frame];
}
