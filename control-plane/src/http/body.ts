import { isUtf8 } from "node:buffer";
import { Problem } from "@frazil/contracts";
import type { HttpBindings } from "@hono/node-server";
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { Deps } from "../flow/deps.ts";
import { parseNodeJson } from "./node-json.ts";

/** Objects and lists within one another. Deeper ones are of no use to anybody, and overflow stacks, ours and Postgres's. */
const JSON_DEPTH_MAX = 200;
/** A whole body that is read into memory may take so many times the longest silence. */
const SILENCES_MAX = 20;

export interface BodyLimits {
  readonly bytesMax: number;
  /** So long a sender may be silent within a body. */
  readonly idleMs: number;
  /** How to do with less. */
  readonly advice: string;
}
export type Body = AsyncIterable<Uint8Array> | null;

/** The body of a request: of a connection as Node reads it, because a web stream around it takes as long as reading a short plan ten times over. */
export function bodyOf(c: Context): Body {
  const { incoming } = (c.env ?? {}) as Partial<HttpBindings>;
  return incoming === undefined ? c.req.raw.body : incoming.iterator({ destroyOnReturn: false });
}

/** The pieces of a body as they come. One that stops coming is given up: whoever sends it holds memory and a connection. */
export async function* piecesOf(body: Body, idleMs: number): AsyncGenerator<Uint8Array> {
  if (body === null) return;
  const pieces = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { done, value } = await within(idleMs, pieces.next().catch(brokenOff));
      if (done) return;
      yield value;
    }
  } finally {
    // Not awaited: it may wait for the piece that does not come.
    pieces.return?.().catch(() => undefined);
  }
}

/** The sender went away: nothing of ours has failed. */
function brokenOff(cause: unknown): never {
  throw new Problem("invalid_request", "The connection broke before the body was complete.", { cause });
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const silent = () =>
      reject(new Problem("request_timeout", `Nothing more of the body came for ${ms / 1_000} s; send it again.`));
    timer = setTimeout(silent, ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

export async function readBytes(body: Body, limits: BodyLimits): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  const deadlineMs = performance.now() + SILENCES_MAX * limits.idleMs;
  for await (const piece of piecesOf(body, limits.idleMs)) {
    bytes += piece.length;
    if (performance.now() > deadlineMs)
      throw new Problem("request_timeout", "The body came too slowly; send it again over a better connection.");
    if (bytes > limits.bytesMax)
      throw new Problem("too_large", `The body may have ${limits.bytesMax} bytes; ${limits.advice}.`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

export function textOf(bytes: Uint8Array, what: string): string {
  if (!isUtf8(bytes)) throw new Problem("invalid_request", `${what} is not UTF-8.`);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}

export const parseJson = (text: string, what: string) => parseWith(JSON.parse, text, what);
/** Of a node: see node-json.ts. */
export const parseJsonOfNode = (text: string, what: string) => parseWith(parseNodeJson, text, what);

function parseWith(parse: (text: string) => unknown, text: string, what: string): unknown {
  let value: unknown;
  try {
    value = parse(text);
  } catch (cause) {
    throw new Problem("invalid_request", `${what} is not JSON.`, { cause });
  }
  if (isDeeperThan(value, JSON_DEPTH_MAX))
    throw new Problem("invalid_request", `${what} is nested more than ${JSON_DEPTH_MAX} levels deep.`);
  return value;
}

/** Level by level, because a recursive walk would overflow on what it is to find. */
export function isDeeperThan(value: unknown, depthMax: number): boolean {
  let level = [value];
  for (let depth = 0; level.length > 0; depth++) {
    const next: unknown[] = [];
    for (const one of level) {
      if (typeof one !== "object" || one === null) continue;
      if (depth === depthMax) return true;
      for (const inner of Array.isArray(one) ? one : Object.values(one))
        if (typeof inner === "object") next.push(inner);
    }
    level = next;
  }
  return false;
}

/** Reads the body within its limits before the framework's own validator takes it as JSON. */
export function boundedBody(deps: Pick<Deps, "settings">, limits: Omit<BodyLimits, "idleMs">) {
  return createMiddleware(async (c, next) => {
    const bytes = await readBytes(bodyOf(c), { ...limits, idleMs: deps.settings.bodyIdleMs });
    const text = textOf(bytes, "The body");
    if (text !== "") parseJson(text, "The body");
    c.req.bodyCache.text = Promise.resolve(text) as never;
    await next();
  });
}
