import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "./testing/eventually.ts";
import { makeLine } from "./testing/fake-data.ts";
import { type FakeServer, startFakeServer } from "./testing/fake-server.ts";

const MAIN = fileURLToPath(new URL("./main.ts", import.meta.url));

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());

const DEV_FULL = "/dev/full";

/** The CLI as a process of its own. */
function start(args: string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [MAIN, ...args], { env: { ...process.env, ...server.env, ...env } });
  const ended = once(child, "close").then(([code, signal]) => signal ?? code);
  return { child, ended, out: text(child.stdout), err: text(child.stderr) };
}

describe("the program", () => {
  it("ends by itself, with the exit code of the command", async () => {
    const { ended, out } = start(["jobs", "--json"]);
    expect([await ended, await out]).toEqual([0, '{"items":[],"nextCursor":null}\n']);
    expect(await start(["jobs"], { FRAZIL_TOKEN: "frz_wrong" }).ended).toBe(4);
  });

  it("Ctrl-C while it waits ends it with 130, and leaves the job alone", async () => {
    const { child, ended, err } = start(["submit", "SELECT 1", "--wait"]);
    await eventually(() => expect(server.state.jobs.size).toBe(1));
    const [id] = server.state.jobs.keys();
    await eventually(() => expect(server.to("GET", `/v1/jobs/${id}/wait`)).toHaveLength(1));
    child.kill("SIGINT");
    expect(await ended).toBe(130);
    expect(await err).toContain(`pc cancel ${id}`);
    expect(server.to("POST", `/v1/jobs/${id}/cancel`)).toHaveLength(0);
  });

  it("a reader that has seen enough is no error", async () => {
    const job = server.addJob();
    server.of(job.id).logs.push(...Array.from({ length: 20_000 }, (_, index) => makeLine(index + 1, "x".repeat(100))));
    const { child, ended, out, err } = start(["logs", job.id]);
    // What reads along here is cut off too, when the pipe is closed.
    out.catch(() => undefined);
    child.stdout.once("data", () => child.stdout.destroy());
    expect([await ended, await err]).toEqual([0, ""]);
  });

  it("a reader of stderr that has gone changes nothing", async () => {
    const { child, ended, out, err } = start(["jobs"]);
    err.catch(() => undefined);
    child.stderr.destroy();
    expect([await ended, await out]).toEqual([0, ""]);
  });

  it("says in one sentence that the Node is too old", async () => {
    const old = 'Object.defineProperty(process, "versions", { value: { ...process.versions, node: "20.20.2" } })';
    const startOld = (args: string[]) =>
      start(args, { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(old)}` });
    const [inWords, inJson] = [startOld(["jobs"]), startOld(["jobs", "--json"])];
    const detail = "pc needs Node 22.15 or newer, and this is Node 20.20.2";
    expect([await inWords.ended, await inWords.out, await inWords.err]).toEqual([2, "", `error: ${detail}\n`]);
    expect([await inJson.ended, JSON.parse(await inJson.err)]).toMatchObject([2, { code: "node_too_old", detail }]);
  });

  it("goes through a proxy whose address has no scheme", async () => {
    const asked = Promise.withResolvers<string>();
    const proxy = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.once("data", (head) => asked.resolve(String(head)));
      socket.once("data", () => socket.end("HTTP/1.1 403 Forbidden\r\n\r\n"));
    });
    proxy.listen(0, "127.0.0.1");
    await once(proxy, "listening");
    const { port } = proxy.address() as AddressInfo;
    const env = { HTTP_PROXY: `127.0.0.1:${port}`, http_proxy: `127.0.0.1:${port}`, NO_PROXY: "", no_proxy: "" };
    const { ended, err } = start(["jobs"], { ...env, FRAZIL_ADDRESS: "http://frazil.invalid" });
    expect(await asked.promise).toContain("frazil.invalid");
    expect([await ended, await err]).toEqual([3, expect.stringContaining("http://frazil.invalid")]);
    proxy.close();
  });

  it.skipIf(!existsSync(DEV_FULL))("a disk that is full has an exit code of its own, and is said", async () => {
    const full = openSync(DEV_FULL, "w");
    const env = { ...process.env, ...server.env };
    const child = spawn(process.execPath, [MAIN, "jobs", "--json"], { env, stdio: ["ignore", full, "pipe"] });
    closeSync(full);
    const [err, [code]] = await Promise.all([text(child.stderr as Readable), once(child, "close")]);
    expect([code, JSON.parse(err).code]).toEqual([74, "output_failed"]);
  });
});
