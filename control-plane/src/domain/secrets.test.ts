import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { makeSealer } from "./seal.ts";
import { hashToken, mintToken, sameHash, tokenPrefix } from "./tokens.ts";

describe("sealing", () => {
  const sealer = makeSealer(randomBytes(32));
  const plain = Buffer.from("aws_secret_access_key=hunter2");

  it("gives back what was sealed, and shows nothing of it", () => {
    const sealed = sealer.seal(plain, "ws_a");
    expect(sealer.open(sealed, "ws_a").equals(plain)).toBe(true);
    expect(sealed.includes("hunter2")).toBe(false);
    expect(sealer.seal(plain, "ws_a").equals(sealed)).toBe(false);
  });

  it("opens for the same workspace only, with the same key only, and untouched only", () => {
    const sealed = sealer.seal(plain, "ws_a");
    expect(() => sealer.open(sealed, "ws_b")).toThrow();
    expect(() => makeSealer(randomBytes(32)).open(sealed, "ws_a")).toThrow();
    sealed[sealed.length - 1] = (sealed.at(-1) as number) ^ 1;
    expect(() => sealer.open(sealed, "ws_a")).toThrow();
  });

  it("hashes the same content alike within a workspace, and apart between two", () => {
    expect(sealer.hash(plain, "ws_a").equals(sealer.hash(plain, "ws_a"))).toBe(true);
    expect(sealer.hash(plain, "ws_a").equals(sealer.hash(plain, "ws_b"))).toBe(false);
  });
});

describe("tokens", () => {
  it("are recognised by shape and checksum before anyone is asked", () => {
    const { token, prefix, hash } = mintToken();
    expect(token).toMatch(/^frz_[0-9A-Za-z]{8}_[0-9A-Za-z]{38}$/);
    expect(tokenPrefix(token)).toBe(prefix);
    expect(sameHash(hashToken(token), hash)).toBe(true);
    const mistyped = token.slice(0, -1) + (token.endsWith("a") ? "b" : "a");
    expect(tokenPrefix(mistyped)).toBeUndefined();
    expect(tokenPrefix("frz_x")).toBeUndefined();
  });

  it("are never the same twice", () => {
    expect(new Set(Array.from({ length: 100 }, () => mintToken().token)).size).toBe(100);
  });
});
