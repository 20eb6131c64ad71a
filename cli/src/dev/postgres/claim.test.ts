import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { claim } from "./claim.ts";

const MODULE = fileURLToPath(new URL("./claim.ts", import.meta.url));

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "frazil-claim-"));
  file = join(folder, "postgres.lock");
});
afterEach(() => rmSync(folder, { recursive: true }));

describe("claim", () => {
  it("is held by one living process at a time", async () => {
    const release = await claim(file, "it");
    await expect(claim(file, "it")).rejects.toThrow(`it is in use by process ${process.pid}`);
    await release();
    await (await claim(file, "it"))();
    expect(readdirSync(folder)).toEqual([]);
  });

  it.each([
    ["of a process that has gone", JSON.stringify({ pid: process.pid, startedAt: "before" })],
    ["without content, as a loss of power leaves it", ""],
    ["that was written in part", '{"pid": 1'],
    ["of another form", "[]"],
    ["of zeros", "\0\0\0\0"],
  ])("takes over one %s", async (_what, content) => {
    writeFileSync(file, content);
    const release = await claim(file, "it");
    expect(JSON.parse(readFileSync(file, "utf8"))).toMatchObject({ pid: process.pid });
    expect(readdirSync(folder)).toEqual(["postgres.lock"]);
    await release();
  });

  it("leaves nothing behind when it can't be written", async () => {
    const script = `const { claim } = await import(${JSON.stringify(MODULE)});
      await claim(${JSON.stringify(file)}, "it").catch((error) => console.log(error.code));`;
    // Files may not grow here, as on a full disk; the signal that says so as well would end the process.
    const limited = `trap "" XFSZ; ulimit -f 0; exec "$0" --input-type=module -e "$1"`;
    const { stdout } = await promisify(execFile)("sh", ["-c", limited, process.execPath, script]);
    expect([stdout, readdirSync(folder)]).toEqual(["EFBIG\n", []]);
  });
});
