import { createHash, randomBytes, timingSafeEqual } from "node:crypto";

/**
 * `frz_<8 prefix>_<32 secret><6 checksum>`: the prefix finds the row, the checksum lets a scanner or a client tell a mistyped token without asking.
 * 190 bits of secret, so a plain SHA-256 of the whole is enough to keep.
 */
const ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const PREFIX_CHARS = 8;
const SECRET_CHARS = 32;
const CHECKSUM_CHARS = 6;
const SHAPE = new RegExp(`^frz_([0-9a-zA-Z]{${PREFIX_CHARS}})_[0-9a-zA-Z]{${SECRET_CHARS + CHECKSUM_CHARS}}$`);

export interface MintedToken {
  readonly token: string;
  readonly prefix: string;
  readonly hash: Buffer;
}

export function mintToken(): MintedToken {
  const prefix = randomText(PREFIX_CHARS);
  const body = `frz_${prefix}_${randomText(SECRET_CHARS)}`;
  const token = body + checksum(body);
  return { token, prefix, hash: hashToken(token) };
}

/** The prefix of a well-formed token, undefined for anything else. */
export function tokenPrefix(token: string): string | undefined {
  const match = SHAPE.exec(token);
  if (match === null) return undefined;
  const body = token.slice(0, -CHECKSUM_CHARS);
  return checksum(body) === token.slice(-CHECKSUM_CHARS) ? match[1] : undefined;
}

export function hashToken(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

export function sameHash(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Tokens of nodes: no prefix, found by their hash. */
export function mintNodeToken(kind: "join" | "node"): { token: string; hash: Buffer } {
  const token = `frz${kind}_${randomText(43)}`;
  return { token, hash: hashToken(token) };
}

function randomText(chars: number): string {
  let text = "";
  while (text.length < chars) {
    for (const byte of randomBytes(chars)) if (byte < 248 && text.length < chars) text += ALPHABET[byte % 62];
  }
  return text;
}

function checksum(body: string): string {
  const digest = createHash("sha256").update(body).digest();
  return Array.from(digest.subarray(0, CHECKSUM_CHARS), (byte) => ALPHABET[byte % 62]).join("");
}
