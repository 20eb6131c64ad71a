import { ENGINE_FRAME_BYTES_MAX } from "@frazil/contracts";

/** u32 LE header length, u32 LE body length, header (UTF-8 JSON object), body. */
const PREFIX_BYTES = 8;
const OPENING_BRACE = 0x7b;
const NO_BODY = Buffer.alloc(0);

export interface Frame {
  readonly header: unknown;
  readonly body: Buffer;
}

/** The other side broke the protocol. Nothing that it says from here on can be trusted. */
export class FrameError extends Error {}

export function encodeFrame(header: object, body: Uint8Array = NO_BODY): Buffer {
  const text = Buffer.from(JSON.stringify(header));
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + text.length + body.length);
  frame.writeUInt32LE(text.length, 0);
  frame.writeUInt32LE(body.length, 4);
  frame.set(text, PREFIX_BYTES);
  frame.set(body, PREFIX_BYTES + text.length);
  return frame;
}

export interface FrameReader {
  /** Takes the next bytes and returns the frames that they complete. Throws FrameError on anything that is not a frame. */
  push(chunk: Buffer): Frame[];
}

export function createFrameReader(frameBytesMax: number = ENGINE_FRAME_BYTES_MAX): FrameReader {
  let chunks: Buffer[] = [];
  let bytes = 0;
  /** How many bytes must be there before another look is worth it. Keeps large frames from being joined once per chunk. */
  let wanted = PREFIX_BYTES;

  return {
    push(chunk) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes < wanted) return [];
      let buffer = chunks.length === 1 ? chunk : Buffer.concat(chunks, bytes);
      const frames: Frame[] = [];
      for (;;) {
        const length = frameLength(buffer, frameBytesMax);
        if (length === undefined || buffer.length < length) {
          wanted = length ?? Math.max(PREFIX_BYTES, buffer.length + 1);
          break;
        }
        frames.push(decodeFrame(buffer));
        buffer = buffer.subarray(length);
      }
      chunks = buffer.length === 0 ? [] : [buffer];
      bytes = buffer.length;
      return frames;
    },
  };
}

/** Length of the frame that begins here; undefined when too little of it is there to say. */
function frameLength(buffer: Buffer, frameBytesMax: number): number | undefined {
  if (buffer.length < PREFIX_BYTES) return undefined;
  const headerBytes = buffer.readUInt32LE(0);
  const length = PREFIX_BYTES + headerBytes + buffer.readUInt32LE(4);
  if (headerBytes < 2) throw new FrameError("a frame without a header");
  if (length > frameBytesMax) throw new FrameError(`a frame of ${length} bytes; the limit is ${frameBytesMax}`);
  if (buffer.length > PREFIX_BYTES && buffer[PREFIX_BYTES] !== OPENING_BRACE) {
    throw new FrameError("a frame whose header is not a JSON object");
  }
  return length;
}

function decodeFrame(buffer: Buffer): Frame {
  const headerBytes = buffer.readUInt32LE(0);
  const bodyBytes = buffer.readUInt32LE(4);
  const bodyAt = PREFIX_BYTES + headerBytes;
  const text = buffer.toString("utf8", PREFIX_BYTES, bodyAt);
  try {
    return { header: JSON.parse(text), body: bodyBytes === 0 ? NO_BODY : buffer.subarray(bodyAt, bodyAt + bodyBytes) };
  } catch {
    throw new FrameError("a frame whose header is not JSON");
  }
}
