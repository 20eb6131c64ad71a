import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CliError } from "./cli-error.ts";
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

const failureOf = (load: () => unknown): CliError => {
  try {
    load();
  } catch (error) {
    return error as CliError;
  }
  return expect.fail("it was taken");
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

  it("takes no white space around address and token, as what was read from a file has it", () => {
    const env = { HOME: home, FRAZIL_ADDRESS: " http://env/\n", FRAZIL_TOKEN: "frz_env\r\n" };
    expect(loadSettings(env, {})).toMatchObject({ address: "http://env", token: "frz_env" });
    expect(loadSettings(env, { token: "\tfrz_option " }).token).toBe("frz_option");
    write(configPath({ HOME: home }), { address: "http://file\n", token: "frz_file\n" });
    expect(loadSettings({ HOME: home }, {})).toMatchObject({ address: "http://file", token: "frz_file" });
  });

  it.each(["frz_secret frz_secret", "frz_sec\nret", "frz_secrét", "frz_secret\u0007", "frz_secret\u2026", "\n"])(
    "refuses the token %j from anywhere, says where it is, and does not show it",
    (token) => {
      const path = configPath({ HOME: home });
      write(path, { address: "http://file", token });
      const env = { HOME: home, FRAZIL_ADDRESS: "http://env", FRAZIL_TOKEN: token };
      const failures = [
        failureOf(() => loadSettings(env, {})),
        failureOf(() => loadSettings({ HOME: home, FRAZIL_TOKEN: token }, {})),
        failureOf(() => loadSettings(env, { token })),
        failureOf(() => loadSettings({ HOME: home }, {})),
      ];
      const places = failures.map(({ message }) => /^the token of (\S+) (?:is|has) /.exec(message)?.[1]);
      expect(places).toEqual(["FRAZIL_TOKEN", "FRAZIL_TOKEN", "--token", path]);
      for (const { code, exitCode, message, hint } of failures) {
        expect([code, exitCode]).toEqual(["not_configured", 3]);
        expect(message + hint).not.toContain("frz_");
      }
    },
  );

  it("refuses a file that is not UTF-8", () => {
    const path = configPath({ HOME: home });
    write(path, "");
    writeFileSync(path, Buffer.from('{"address": "http://x", "token": "frz_\xe9"}', "latin1"));
    const { code, message } = failureOf(() => loadSettings({ HOME: home }, {}));
    expect([code, message]).toEqual(["not_configured", `${path} is not UTF-8 text`]);
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
