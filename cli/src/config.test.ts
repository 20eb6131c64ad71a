import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkAddress, configPath, loadSettings, writeSettings } from "./config.ts";

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "frazil-config-"));
});
afterEach(() => rmSync(home, { recursive: true }));

const write = (path: string, content: unknown) => {
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
};

describe("loadSettings", () => {
  it("takes options before the environment, that before the login, that before pc dev", () => {
    const env = { HOME: home };
    write(join(home, ".frazil", "dev.json"), { address: "http://dev", token: "dev", pid: 1 });
    expect(loadSettings(env, {}).address).toBe("http://dev");
    writeSettings(env, { address: "http://login", token: "login" });
    expect(loadSettings(env, {}).address).toBe("http://login");
    const given = { ...env, FRAZIL_ADDRESS: "http://env/", FRAZIL_TOKEN: "env" };
    expect(loadSettings(given, {})).toEqual({ address: "http://env", token: "env", source: "environment" });
    const { address, token } = loadSettings(given, { address: "http://option" });
    expect([address, token]).toEqual(["http://option", "env"]);
  });

  it("one half alone replaces that half of the file", () => {
    writeSettings({ HOME: home }, { address: "http://login", token: "login" });
    const { address, token } = loadSettings({ HOME: home, FRAZIL_TOKEN: "other" }, {});
    expect([address, token]).toEqual(["http://login", "other"]);
  });

  it("FRAZIL_CONFIG and FRAZIL_HOME say where to look", () => {
    write(join(home, "a.json"), { address: "http://a", token: "a" });
    expect(loadSettings({ HOME: home, FRAZIL_CONFIG: "~/a.json" }, {}).address).toBe("http://a");
    write(join(home, "h", "dev.json"), { address: "http://h", token: "h" });
    expect(loadSettings({ HOME: home, FRAZIL_HOME: join(home, "h") }, {}).address).toBe("http://h");
  });

  it("says what is missing and where it has looked", () => {
    expect(() => loadSettings({ HOME: home }, {})).toThrow(
      `FRAZIL_ADDRESS and FRAZIL_TOKEN are not set, and there is neither ${home}/.config/frazil/config.json nor ${home}/.frazil/dev.json`,
    );
    expect(() => loadSettings({ HOME: home, FRAZIL_ADDRESS: "http://x" }, {})).toThrow("FRAZIL_TOKEN is not set");
  });

  it.each(["{", "[]", '{"address": 1, "token": "x"}', '{"address": "http://x"}'])("refuses the file %s", (content) => {
    write(configPath({ HOME: home }), content);
    expect(() => loadSettings({ HOME: home }, {})).toThrow("is not a config file");
  });
});

describe("writeSettings", () => {
  it("writes a file that only its owner can read, also over one that others could", () => {
    const env = { HOME: home };
    write(configPath(env), "{}");
    const path = writeSettings(env, { address: "http://x", token: "t" });
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });
});

describe("checkAddress", () => {
  it("takes http and https, without the slash at the end", () => {
    expect(checkAddress("https://frazil.example.com/api//")).toBe("https://frazil.example.com/api");
    for (const address of ["frazil.example.com", "ftp://x", "http://", ""]) {
      expect(() => checkAddress(address)).toThrow("not an address");
    }
  });
});
