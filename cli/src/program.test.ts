import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { COMMANDS } from "./commands/registry.ts";
import { commandOf, runCli } from "./program.ts";
import { makeJob } from "./testing/fake-data.ts";
import { fakeIo } from "./testing/fake-io.ts";
import { type FakeServer, problemAnswer, startFakeServer } from "./testing/fake-server.ts";
import { CLI_VERSION } from "./version.ts";

const run = async (args: string[], options: Parameters<typeof fakeIo>[0] = {}) => {
  const io = fakeIo(options);
  return { code: await runCli(io, args), out: io.out(), err: io.err() };
};

describe("help", () => {
  it("of the program lists every command and the exit codes", async () => {
    const { code, out, err } = await run(["--help"]);
    for (const { name } of COMMANDS) expect(out).toMatch(new RegExp(`^  ${name} `, "m"));
    for (const exitCode of [0, 1, 2, 3, 4, 5, 6, 70, 130]) expect(out).toMatch(new RegExp(`^  ${exitCode} `, "m"));
    expect([code, err]).toEqual([0, ""]);
  });

  it.each(COMMANDS.map(({ name }) => name))("of %s has examples and the global options", async (name) => {
    const { code, out } = await run([name, "--help"], { columns: 80 });
    expect(code).toBe(0);
    expect(out).toContain(`Usage: pc ${name}`);
    expect(out).toContain("--json");
    expect(out).toMatch(/Examples:\n {2}\$ (id=\$\()?pc /);
  });

  it("is also under `help`, and shown when nothing was asked for", async () => {
    expect(await run(["help", "jobs"])).toMatchObject({ code: 0, out: expect.stringContaining("Usage: pc jobs") });
    expect(await run([])).toMatchObject({ code: 2, out: "", err: expect.stringContaining("Usage: pc") });
  });

  it("of dev says which servers other commands find", async () => {
    const { out } = await run(["dev", "--help"]);
    expect(out).toMatch(/find it by themselves where\s+its home is \$FRAZIL_HOME or ~\/\.frazil;/);
  });

  it("fits the terminal", async () => {
    const { out } = await run(["jobs", "--help"], { columns: 60 });
    const options = out.slice(out.indexOf("Options:"), out.indexOf("Examples:"));
    for (const line of options.split("\n")) expect(line.length).toBeLessThanOrEqual(60);
  });
});

describe("a line that is not right", () => {
  it("says so on stderr, with exit code 2", async () => {
    expect(await run(["jbos"])).toEqual({ code: 2, out: "", err: expect.stringContaining("(Did you mean jobs?)") });
    expect(await run(["jobs", "--nope"])).toEqual({
      code: 2,
      out: "",
      err: expect.stringContaining("unknown option '--nope'"),
    });
    expect(await run(["submit"])).toEqual({
      code: 2,
      out: "",
      err: expect.stringContaining("missing required argument 'query'"),
    });
    expect(await run(["jobs", "extra"])).toMatchObject({ code: 2, err: expect.stringContaining("too many arguments") });
  });

  it("says so as a problem document with --json", async () => {
    const { code, out, err } = await run(["jobs", "--status", "x", "--json"]);
    expect([code, out]).toEqual([2, ""]);
    expect(JSON.parse(err)).toMatchObject({
      type: "urn:frazil:error:usage",
      code: "usage",
      detail: expect.stringContaining("'x' is invalid"),
    });
  });
});

describe("the version", () => {
  it("is one line", async () => {
    expect(await run(["--version"])).toEqual({ code: 0, out: `pc ${CLI_VERSION}\n`, err: "" });
  });
});

describe("commandOf", () => {
  it.each([
    [["jobs", "--json"], "jobs"],
    [["--json", "--token", "jobs", "logs", "x"], "logs"],
    [["help", "wait"], "wait"],
    [["--version"], ""],
  ])("of %j is %s", (args, name) => expect(commandOf(args)).toBe(name));
});

describe("global options", () => {
  let server: FakeServer;
  let home: string;
  beforeEach(async () => {
    server = await startFakeServer();
    home = mkdtempSync(join(tmpdir(), "frazil-home-"));
  });
  afterEach(async () => {
    await server.close();
    rmSync(home, { recursive: true });
  });

  it("count before and after the command", async () => {
    const given = ["--address", server.address, "--token", "frz_test", "--json"];
    for (const args of [
      [...given, "jobs"],
      ["jobs", ...given],
      ["--json", "jobs", ...given.slice(0, 4)],
    ]) {
      expect(await run(args)).toEqual({ code: 0, out: '{"items":[],"nextCursor":null}\n', err: "" });
    }
    expect(await run(["clusters", "list", ...given])).toMatchObject({
      code: 0,
      out: '{"items":[],"nextCursor":null}\n',
    });
    expect(await run([...given, "clusters"])).toMatchObject({ code: 0, out: '{"items":[],"nextCursor":null}\n' });
  });

  it("without a server, exit code 3 says what to do", async () => {
    const { code, err } = await run(["jobs"], { env: { HOME: home } });
    expect(code).toBe(3);
    expect(err).toMatch(/error: no Frazil server is configured[^\n]*\nhint: .*pc dev.*pc login/);
  });

  it("the server's refusal is exit code 4, and its own document with --json", async () => {
    server.state.intercept = () => problemAnswer("conflict", "not now");
    expect(await run(["jobs"], { env: server.env })).toEqual({ code: 4, out: "", err: "error: not now\n" });
    const { err } = await run(["jobs", "--json"], { env: server.env });
    expect(JSON.parse(err)).toMatchObject({
      type: "urn:frazil:error:conflict",
      status: 409,
      code: "conflict",
      detail: "not now",
    });
  });

  it("issues of a refusal are listed", async () => {
    const { status, json } = problemAnswer("invalid_request", "The body does not fit.");
    server.state.intercept = () => ({
      status: status ?? 400,
      json: { ...(json as object), issues: [{ path: "spec.name", message: "too long" }] },
    });
    expect((await run(["jobs"], { env: server.env })).err).toBe(
      "error: The body does not fit.\n  spec.name: too long\n",
    );
  });

  it("an answer that is not understood is named, and unknown fields and codes are not minded", async () => {
    server.state.intercept = () => ({ json: { items: [{ id: "x" }], nextCursor: null } });
    expect(await run(["jobs"], { env: server.env })).toMatchObject({
      code: 3,
      err: expect.stringContaining("/v1/jobs was not understood: items.0.id"),
    });
    const job = { ...makeJob(), brandNew: 1 };
    server.state.intercept = () => ({ json: { items: [job], nextCursor: null, alsoNew: 2 } });
    expect(JSON.parse((await run(["jobs", "--json"], { env: server.env })).out).items).toEqual([job]);
    server.state.intercept = () => ({ status: 418, json: { code: "teapot", detail: "short and stout" } });
    expect(await run(["jobs"], { env: server.env })).toMatchObject({ code: 4, err: "error: short and stout\n" });
  });

  it("colours are for terminals, and --no-color, NO_COLOR and FORCE_COLOR count", async () => {
    server.addJob();
    const colour = "\u001b[";
    const coloured = async (args: string[], env = {}, columns?: number) =>
      (
        await run(["jobs", ...args], { env: { ...server.env, ...env }, ...(columns === undefined ? {} : { columns }) })
      ).out.includes(colour);
    expect(await coloured([], {}, 100)).toBe(true);
    expect(await coloured([])).toBe(false);
    expect(await coloured(["--no-color"], {}, 100)).toBe(false);
    expect(await coloured([], { NO_COLOR: "1" }, 100)).toBe(false);
    expect(await coloured([], { FORCE_COLOR: "1" })).toBe(true);
  });
});
