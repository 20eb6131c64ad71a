import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../testing/eventually.ts";
import { eraseEmbeddedPostgres, startEmbeddedPostgres } from "./embedded-postgres.ts";

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));
/** Nothing listens there. */
const NO_DATABASE = "postgres://nobody@127.0.0.1:1/none";

let root: string;
let home: string;
const children = new Set<ReturnType<typeof spawn>>();

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "frazil-dev-test-"));
  home = join(root, "home");
  mkdirSync(home);
});

afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  children.clear();
  await eraseEmbeddedPostgres(join(home, "postgres"));
  rmSync(root, { recursive: true });
});

/** `pc dev` as a process of its own, with no setting but these. */
function startDev(args: string[], env: Record<string, string> = {}) {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("FRAZIL_") && name !== "DATABASE_URL");
  const child = spawn(process.execPath, [MAIN, "dev", ...args], {
    cwd: root,
    env: { ...Object.fromEntries(kept), ...env },
  });
  children.add(child);
  const ended = once(child, "close").then(([code, signal]) => {
    children.delete(child);
    return signal ?? code;
  });
  return { child, ended, out: text(child.stdout), err: text(child.stderr) };
}

/** The exit code and the problem document of a `pc dev` that can't run. */
async function failingDev(args: string[], env: Record<string, string> = {}) {
  const { ended, err } = startDev(["--json", ...args], env);
  const [exitCode, said] = await Promise.all([ended, err]);
  return { exitCode, ...(JSON.parse(said) as { code: string; detail: string; hint?: string }) };
}

describe("a pc dev that can't run", () => {
  it("says so, and is no bug", async () => {
    writeFileSync(join(root, "file"), "");
    const noFolder = join(root, "file", "home");
    const failed = { exitCode: 1, code: "dev_failed" };
    expect(await failingDev(["--home", noFolder])).toMatchObject({
      ...failed,
      detail: expect.stringContaining(noFolder),
    });
    expect(await failingDev(["--home", home], { DATABASE_URL: NO_DATABASE })).toMatchObject({
      ...failed,
      detail: expect.stringContaining("control plane ended at its start"),
      hint: expect.stringContaining("control-plane.log"),
    });
  });

  it("names the process that holds the data, as a first one that still starts or stops does", async () => {
    const held = await startEmbeddedPostgres({ dir: join(home, "postgres") });
    const failed = await failingDev(["--home", home]);
    await held.stop();
    expect(failed).toMatchObject({ exitCode: 1, code: "dev_failed" });
    expect(failed.detail).toContain(`in use by process ${process.pid}`);
  });

  it("ends by itself, and its Postgres with it, when something fails after that has been started", async () => {
    mkdirSync(join(home, "key"));
    const failed = await failingDev(["--home", home]);
    expect(failed).toMatchObject({ exitCode: 1, code: "dev_failed", detail: expect.stringContaining("EISDIR") });
    // It gave up its claim: the same data can be had at once.
    await (await startEmbeddedPostgres({ dir: join(home, "postgres") })).stop();
  });

  it("leaves the dev.json of another process", async () => {
    const others = JSON.stringify({ address: "http://127.0.0.1:1", token: "t", pid: process.pid });
    writeFileSync(join(home, "dev.json"), others);
    expect(await failingDev(["--home", home], { DATABASE_URL: NO_DATABASE })).toMatchObject({ exitCode: 1 });
    expect(readFileSync(join(home, "dev.json"), "utf8")).toBe(others);
  });
});

describe("Ctrl-C", () => {
  it("while the control plane starts ends it, with nothing that keeps the process", async () => {
    const sockets: Socket[] = [];
    const silentDatabase = createServer((socket) => sockets.push(socket)).listen(0, "127.0.0.1");
    await once(silentDatabase, "listening");
    const { port } = silentDatabase.address() as AddressInfo;
    const { child, ended, err } = startDev(["--home", home], { DATABASE_URL: `postgres://a@127.0.0.1:${port}/b` });
    await eventually(() => expect(sockets).not.toEqual([]));
    child.kill("SIGINT");
    expect([await ended, await err]).toEqual([0, "Starting the control plane ...\nStopping ...\n"]);
    for (const socket of sockets) socket.destroy();
    silentDatabase.close();
  });
});

describe("the environment", () => {
  it("gives the home as other commands read it", async () => {
    const unusable = join(root, "unusable");
    writeFileSync(unusable, "");
    const homeIn = async (HOME: string, FRAZIL_HOME: string) => (await failingDev([], { HOME, FRAZIL_HOME })).detail;
    expect(await homeIn(root, "~/unusable/fz")).toContain(`'${join(unusable, "fz")}'`);
    expect(await homeIn(unusable, "")).toContain(`'${join(unusable, ".frazil")}'`);
  });

  it("gives the port, which must be one", async () => {
    for (const FRAZIL_PORT of ["http", "-1", "70000", "74.2"]) {
      const failed = await failingDev(["--home", home], { FRAZIL_PORT });
      expect(failed).toMatchObject({ exitCode: 2, code: "usage", detail: `FRAZIL_PORT is "${FRAZIL_PORT}"` });
    }
    expect(existsSync(join(home, "postgres"))).toBe(false);
  });
});
