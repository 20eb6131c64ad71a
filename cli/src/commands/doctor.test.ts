import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Check, checkClock } from "../doctor.ts";
import { runCli } from "../program.ts";
import { ME } from "../testing/fake-data.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { type FakeServer, startFakeServer } from "../testing/fake-server.ts";
import { CLI_VERSION } from "../version.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-doctor-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A program that answers as Python would: with what is installed. */
function pythonWith(name: string, facts: Record<string, string | null>): string {
  const path = join(folder, name);
  writeFileSync(path, `#!/bin/sh\necho '${JSON.stringify(facts)}'\n`, { mode: 0o755 });
  return path;
}
const good = pythonWith("good", { python: "3.11.7", polars: "2.1.0", frazil: CLI_VERSION, cloudpickle: "3.1.2" });

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());

async function examine(options: { python?: string; env?: Record<string, string> } = {}) {
  const io = fakeIo({ env: { HOME: folder, ...server.env, ...options.env } });
  const code = await runCli(io, ["doctor", "--json", "--python", options.python ?? good]);
  const { ok, checks } = JSON.parse(io.out()) as { ok: boolean; checks: Check[] };
  const faults = checks.filter(({ status }) => status !== "ok");
  return { code, ok, checks, faults };
}

describe("pc doctor", () => {
  it("finds nothing where all is well", async () => {
    const { code, ok, checks, faults } = await examine();
    expect([code, ok, faults]).toEqual([0, true, []]);
    expect(checks.map(({ name }) => name)).toEqual([
      "config",
      "server",
      "clock",
      "token",
      "versions",
      "python",
      "polars",
      "client",
      "disk",
    ]);
  });

  it("without a server is exit code 3, and still looks at this machine", async () => {
    const { address } = server;
    await server.close();
    const { code, faults, checks } = await examine({ env: { FRAZIL_ADDRESS: address } });
    expect([code, faults[0]]).toEqual([
      3,
      {
        name: "server",
        status: "failed",
        detail: expect.stringContaining("nothing listens there"),
        fix: expect.stringContaining("pc dev"),
      },
    ]);
    expect(checks.map(({ name }) => name)).toContain("python");
    server = await startFakeServer();
  });

  it("without a configuration is exit code 3", async () => {
    const { code, faults } = await examine({ env: { FRAZIL_ADDRESS: "", FRAZIL_TOKEN: "" } });
    expect([code, faults[0]?.name, faults[0]?.fix]).toEqual([3, "config", expect.stringContaining("pc login")]);
  });

  it("with a token that is not accepted is exit code 4", async () => {
    const { code, faults } = await examine({ env: { FRAZIL_TOKEN: "frz_old" } });
    expect([code, faults[0]?.name, faults[0]?.fix]).toEqual([4, "token", expect.stringContaining("pc login")]);
  });

  it("tells another server from ours", async () => {
    server.state.intercept = () => ({ status: 404, text: "nginx", headers: { "content-type": "text/html" } });
    expect(await examine()).toMatchObject({
      code: 3,
      faults: [{ name: "server", detail: expect.stringContaining("not how a Frazil server answers") }],
    });
  });

  it("tells a server that is not ready", async () => {
    server.state.intercept = ({ path }) => (path === "/readyz" ? { status: 503, json: {} } : undefined);
    expect(await examine()).toMatchObject({ code: 0, faults: [{ name: "ready", status: "warning" }] });
  });

  it("compares versions: of the server, of Polars, of the client", async () => {
    server.state.intercept = ({ path }) =>
      path === "/v1/me" ? { json: { ...ME, serverVersion: "9.9.0", brandNew: 1 } } : undefined;
    const python = pythonWith("old", { python: "3.9.1", polars: "0.20.0", frazil: "0.0.1", cloudpickle: null });
    const { code, faults } = await examine({ python });
    expect(code).toBe(0);
    expect(faults.map(({ name }) => name)).toEqual(["versions", "python", "polars", "client"]);
    expect(faults.every(({ fix }) => fix !== undefined)).toBe(true);
    expect(faults[2]?.fix).toContain("2.0.0, 2.1.0");
  });

  it("says what is missing in Python, and that it is no failure", async () => {
    const bare = pythonWith("bare", { python: "3.12.1", polars: null, frazil: null, cloudpickle: null });
    expect(await examine({ python: bare })).toMatchObject({
      code: 0,
      faults: [{ name: "polars", fix: expect.stringContaining("pip install polars") }],
    });
    expect(await examine({ python: "/nonexistent" })).toMatchObject({
      code: 0,
      faults: [{ name: "python", fix: expect.stringContaining("--python") }],
    });
    const unpickled = pythonWith("unpickled", { python: "3.12.1", polars: "2.1.0", frazil: null, cloudpickle: null });
    expect(await examine({ python: unpickled })).toMatchObject({
      faults: [{ name: "python", fix: expect.stringContaining("cloudpickle") }],
    });
  });

  it("is for people, too", async () => {
    const io = fakeIo({ env: { HOME: folder, ...server.env, FRAZIL_TOKEN: "frz_old" } });
    expect(await runCli(io, ["doctor", "--python", good, "--quiet"])).toBe(4);
    expect(io.out()).toMatch(
      /^✗ token {4}Send a valid token\.\n {11}log in again with `pc login ADDRESS`, or set FRAZIL_TOKEN\n$/,
    );
  });
});

describe("checkClock", () => {
  const server1 = "Fri, 02 Jan 2026 00:00:00 GMT";
  const at = Date.parse(server1);
  it.each([
    [0, "ok"],
    [900, "ok"],
    [29_000, "ok"],
    [31_000, "warning"],
    [-31_000, "warning"],
  ])("a clock %i ms off is %s", (offMs, status) =>
    expect(checkClock(server1, at + 500 + offMs, 0)?.status).toBe(status),
  );

  it("says which way, and nothing without a date", () => {
    expect(checkClock(server1, at + 120_500, 0)?.detail).toContain("2 min 00 s ahead of");
    expect(checkClock(server1, at - 119_500, 0)?.detail).toContain("2 min 00 s behind");
    expect(checkClock(null, at, 0)).toBeUndefined();
  });
});
