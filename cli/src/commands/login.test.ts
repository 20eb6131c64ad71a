import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { eventually } from "../testing/eventually.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { type FakeServer, startFakeServer, TOKEN } from "../testing/fake-server.ts";

let server: FakeServer;
let home: string;
beforeEach(async () => {
  server = await startFakeServer();
  home = mkdtempSync(join(tmpdir(), "frazil-login-"));
});
afterEach(async () => {
  await server.close();
  rmSync(home, { recursive: true });
});
const config = () => join(home, ".config", "frazil", "config.json");
const run = async (args: string[], options: Parameters<typeof fakeIo>[0] = {}) => {
  const io = fakeIo({ ...options, env: { HOME: home, ...options.env } });
  return { code: await runCli(io, ["login", ...args]), out: io.out(), err: io.err() };
};

describe("pc login", () => {
  it("reads the token from stdin, checks it, and keeps it for later commands", async () => {
    const { code, out } = await run([`${server.address}/`], { stdin: `${TOKEN}\n` });
    expect([code, out]).toEqual([0, `logged in to workspace analytics as ann; kept in ${config()}\n`]);
    expect(JSON.parse(readFileSync(config(), "utf8"))).toEqual({ address: server.address, token: TOKEN });
    const io = fakeIo({ env: { HOME: home } });
    expect(await runCli(io, ["jobs", "--json"])).toBe(0);
  });

  it("keeps nothing that the server does not accept", async () => {
    expect(await run([server.address], { stdin: "frz_wrong" })).toMatchObject({ code: 4, out: "" });
    expect(existsSync(config())).toBe(false);
  });

  it("needs an address and a token", async () => {
    expect(await run([])).toMatchObject({ code: 2, err: expect.stringContaining("no address") });
    expect(await run([server.address])).toMatchObject({ code: 2, err: expect.stringContaining("there is no token") });
    expect(await run(["frazil.example.com"], { stdin: TOKEN })).toMatchObject({
      code: 2,
      err: expect.stringContaining("not an address"),
    });
  });

  it("refuses what can be no token, and does not show it", async () => {
    for (const [args, stdin, place] of [
      [[], "frz_secret frz_secret", "stdin"],
      [["--token", "frz_sec\nret"], "", "--token"],
    ] as const) {
      const { code, err } = await run([server.address, ...args], { stdin });
      expect([code, err]).toEqual([3, expect.stringContaining(`the token of ${place} has white space`)]);
      expect(err).not.toContain("frz_");
    }
    expect([server.received, existsSync(config())]).toEqual([[], false]);
    expect(await run([server.address, "--token", `${TOKEN}\n`])).toMatchObject({ code: 0 });
    expect(JSON.parse(readFileSync(config(), "utf8")).token).toBe(TOKEN);
  });

  it("says that variables of the environment go before the file", async () => {
    const { err } = await run([server.address, "--token", TOKEN], { env: { FRAZIL_TOKEN: "frz_other" } });
    expect(err).toBe("FRAZIL_TOKEN in your environment goes before that file\n");
  });

  it("asks on a terminal, and does not show what is typed", async () => {
    const typed = Object.assign(new PassThrough(), { isTTY: true, setRawMode: () => typed });
    const io = { ...fakeIo({ env: { HOME: home }, columns: 80 }), stdin: typed };
    const done = runCli(io, ["login", server.address]);
    await eventually(() => expect(io.err()).toBe("Token: "));
    typed.write(`${TOKEN}\r`);
    expect(await done).toBe(0);
    expect(io.err() + io.out()).not.toContain(TOKEN);
    expect(JSON.parse(readFileSync(config(), "utf8")).token).toBe(TOKEN);
  });

  it("Ctrl-C at the prompt keeps nothing", async () => {
    const typed = Object.assign(new PassThrough(), { isTTY: true, setRawMode: () => typed });
    const io = { ...fakeIo({ env: { HOME: home }, columns: 80 }), stdin: typed };
    const done = runCli(io, ["login", server.address]);
    await eventually(() => expect(io.err()).toBe("Token: "));
    typed.write("\u0003");
    expect(await done).toBe(130);
    expect(existsSync(config())).toBe(false);
  });
});
