import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  createEnvironments,
  type EngineEnvironment,
  type EnvironmentSpec,
  environmentKey,
  isPassing,
} from "./environments.ts";
import { lastLines } from "./uv.ts";

let root: string;
let calls: string;
const spec: EnvironmentSpec = { python: { minor: "3.11", path: process.execPath }, polars: "2.1.0", packages: [] };

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "frazil-envs-"));
  calls = join(root, "calls");
  writeFileSync(calls, "");
  // Stands in for uv: writes down its arguments; `venv` links the interpreter, the last argument being the directory.
  const script = `#!/bin/sh
echo "$@" >> ${calls}
[ "$1" = venv ] || exit 0
for directory in "$@"; do :; done
mkdir -p "$directory/bin" && ln -s ${process.execPath} "$directory/bin/python"
`;
  writeFileSync(join(root, "uv"), script);
  chmodSync(join(root, "uv"), 0o755);
});
afterEach(() => rmSync(root, { recursive: true }));

function open() {
  const config = { cacheDir: join(root, "cache"), engineDir: root, uv: join(root, "uv") };
  return createEnvironments({ config, log: pino({ level: "silent" }), pythons: [spec.python] });
}
const uvCalls = () => readFileSync(calls, "utf8").trim().split("\n");

test("agents that need the same environment at the same moment make it once", async () => {
  const agents = await Promise.all([open(), open(), open()]);
  const made = await Promise.all(
    agents.flatMap((agent) => [agent.prepare(spec, () => {}), agent.prepare(spec, () => {})]),
  );
  expect(new Set(made.map((environment) => environment.python)).size).toBe(1);
  expect(uvCalls().map((call) => call.split(" ")[0])).toEqual(["venv", "pip"]);
  expect(uvCalls()[1]).toMatch(/polars==2\.1\.0$/);
});

test("a made environment is there at once, and a later agent finds it without uv", async () => {
  const first = await open();
  const made = await first.prepare(spec, () => {});
  expect(first.prepare(spec, () => {})).toEqual(made);
  const second = await open();
  expect(await second.findLastUsed()).toEqual(made);
  expect(await second.prepare(spec, () => {})).toEqual(made);
  expect(uvCalls()).toHaveLength(2);
});

test("an environment whose interpreter is gone is made anew", async () => {
  const agent = await open();
  const made = await agent.prepare(spec, () => {});
  rmSync(dirname(made.python), { recursive: true });
  agent.forget(made.key);
  const again: EngineEnvironment = await agent.prepare(spec, () => {});
  expect(again.python).not.toBe(made.python);
  expect(readdirSync(dirname(again.python))).toEqual(["python"]);
});

test("an environment with a workspace's packages is not what a new node starts an engine of", async () => {
  const agent = await open();
  await agent.prepare({ ...spec, packages: ["internal-tools==1.0"] }, () => {});
  expect(await agent.findLastUsed()).toBeUndefined();
});

test("the key depends on what is installed, not on the order of the packages", () => {
  const keyOf = (changes: Partial<EnvironmentSpec>, hash = "h") => environmentKey({ ...spec, ...changes }, hash);
  expect(keyOf({ packages: ["a", "b"] })).toBe(keyOf({ packages: ["b", "a"] }));
  const keys = [keyOf({}), keyOf({ polars: "2.0.0" }), keyOf({ packages: ["a"] }), keyOf({}, "other")];
  expect(new Set([...keys, keyOf({ python: { minor: "3.12", path: "/p" } })]).size).toBe(5);
});

test("uv's words are told without credentials, and tell the network's faults from the requirements'", () => {
  const said = lastLines("noise\n\nerror: Failed to fetch: `https://ada:hush@index.example/simple/polars/`\n");
  expect(said).toBe("noise\nerror: Failed to fetch: `https://***@index.example/simple/polars/`");
  expect(isPassing(said)).toBe(true);
  expect(isPassing("  × No solution found when resolving dependencies:")).toBe(false);
});
