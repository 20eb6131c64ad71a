import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { ConfigFault, readConfig } from "./config.ts";

const KEY = randomBytes(32);
const least = { DATABASE_URL: "postgresql://u:p@localhost:5432/frazil", FRAZIL_KEY: KEY.toString("base64") };

describe("the configuration", () => {
  it("needs a database and a key, and has a default for the rest", () => {
    expect(readConfig(least)).toMatchObject({
      databaseUrl: least.DATABASE_URL,
      redisUrl: undefined,
      host: "127.0.0.1",
      port: 7420,
      portFallback: false,
      key: KEY,
      leaseTtlMs: undefined,
      bootstrap: undefined,
    });
  });

  it("names all that is wrong at once, and shows no value", () => {
    const wrong = { DATABASE_URL: "mysql://hunter2", FRAZIL_KEY: "hunter2hunter2==", FRAZIL_PORT: "70000" };
    let fault: unknown;
    try {
      readConfig(wrong);
    } catch (error) {
      fault = error;
    }
    expect(fault).toBeInstanceOf(ConfigFault);
    const { message } = fault as ConfigFault;
    for (const name of Object.keys(wrong)) expect(message).toContain(name);
    expect(message).not.toContain("hunter2");
    expect(() => readConfig({})).toThrow(ConfigFault);
  });

  it("takes keys of 32 bytes only", () => {
    for (const bytes of [0, 16, 31, 33]) {
      const key = randomBytes(bytes).toString("base64");
      expect(() => readConfig({ ...least, FRAZIL_KEY: key })).toThrow(/FRAZIL_KEY/);
    }
    expect(() => readConfig({ ...least, FRAZIL_KEY: "not base64 at all, really!" })).toThrow(/FRAZIL_KEY/);
  });

  it("makes a workspace at boot when it is told its name", () => {
    const told = { ...least, FRAZIL_BOOTSTRAP_WORKSPACE: "lab", FRAZIL_BOOTSTRAP_TOKEN: "frz_x" };
    expect(readConfig(told).bootstrap).toEqual({ workspace: "lab", user: "admin", token: "frz_x" });
  });

  it("reads numbers and switches, and refuses what is none", () => {
    const read = readConfig({ ...least, FRAZIL_PORT: "0", FRAZIL_PORT_FALLBACK: "1", FRAZIL_LEASE_TTL_MS: "600" });
    expect([read.port, read.portFallback, read.leaseTtlMs]).toEqual([0, true, 600]);
    expect(() => readConfig({ ...least, FRAZIL_PORT: "http" })).toThrow(/FRAZIL_PORT/);
    expect(() => readConfig({ ...least, FRAZIL_LEASE_TTL_MS: "1" })).toThrow(/FRAZIL_LEASE_TTL_MS/);
    expect(() => readConfig({ ...least, REDIS_URL: "localhost:6379" })).toThrow(/REDIS_URL/);
  });
});
