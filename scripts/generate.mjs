/** Writes what is generated from the contracts and committed: `npm run generate`. A test compares; `--out DIR` writes it there instead, for that. */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { FromEngine, ToEngine } from "@frazil/contracts";
import { describeApi, makeApp } from "@frazil/control-plane";
import { z } from "zod";
import { ROOT } from "./bootstrap/paths.mjs";

const BIOME = join(ROOT, "node_modules", ".bin", "biome");

const FILES = {
  "contracts/openapi.json": () => formatJson(describeApi(makeApp(nothing()))),
  "contracts/src/generated/engine-messages.schema.json": () => `${JSON.stringify(describeEngineMessages(), null, 2)}\n`,
};

/** Routes reach what they depend on only when they are called; describing them calls none. */
function nothing() {
  return new Proxy(Object.create(null), {
    get(_, name) {
      throw new Error(`describing the API needs no ${String(name)}`);
    },
  });
}

/** What the engine reads, with defaults filled in; and what it may write, which the agent reads loosely. */
function describeEngineMessages() {
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Messages between agent and engine",
    $defs: {
      ToEngine: { $id: "urn:frazil:to-engine", ...withoutSchemaUrl(z.toJSONSchema(ToEngine, { io: "output" })) },
      FromEngine: { $id: "urn:frazil:from-engine", ...withoutSchemaUrl(z.toJSONSchema(FromEngine, { io: "input" })) },
    },
  };
}

function withoutSchemaUrl(document) {
  const { $schema: _, ...schema } = document;
  return schema;
}

/** As the formatter that checks the tree would write it. */
function formatJson(value) {
  const args = ["format", "--stdin-file-path=contracts/openapi.json"];
  return execFileSync(BIOME, args, { cwd: ROOT, input: JSON.stringify(value, null, 2), encoding: "utf8" });
}

const [option, folder] = process.argv.slice(2);
if (option !== undefined && (option !== "--out" || folder === undefined)) {
  console.error("usage: node scripts/generate.mjs [--out DIR]");
  process.exit(2);
}
for (const [name, make] of Object.entries(FILES)) {
  const path = join(folder ?? ROOT, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, make());
  if (folder === undefined) console.log(`wrote ${name}`);
}
