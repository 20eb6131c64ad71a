import { createCipheriv, createDecipheriv, createHash, createHmac, createSecretKey, randomBytes } from "node:crypto";

/** AES-256-GCM: 12 bytes nonce, 16 bytes tag, ciphertext. `owner` (a workspace id) is authenticated: a row moved to another workspace won't open. */
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface Sealer {
  seal(plain: Uint8Array, owner: string): Buffer;
  open(sealed: Uint8Array, owner: string): Buffer;
  /** Content hash for deduplication. Keyed, so that a stolen database does not tell whether it holds a known plan. */
  hash(plain: Uint8Array, owner: string): Buffer;
}

export function makeSealer(keyBytes: Buffer): Sealer {
  // Made once: a key that is given as bytes is taken in anew for each plan.
  const key = createSecretKey(keyBytes);
  const hashKey = createSecretKey(createHash("sha256").update("frazil content hash\0").update(keyBytes).digest());
  return {
    seal(plain, owner) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(Buffer.from(owner));
      const body = Buffer.concat([cipher.update(plain), cipher.final()]);
      return Buffer.concat([nonce, cipher.getAuthTag(), body]);
    },
    open(sealed, owner) {
      const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
      const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, NONCE_BYTES)).setAAD(Buffer.from(owner));
      decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
      return Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()]);
    },
    hash(plain, owner) {
      return createHmac("sha256", hashKey).update(owner).update("\0").update(plain).digest();
    },
  };
}
