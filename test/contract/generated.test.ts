import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { FromEngine, ToEngine } from "@frazil/contracts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeApiDocument } from "../harness/api-routes.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

const made = mkdtempSync(join(tmpdir(), "frazil-generated-"));
afterAll(() => rmSync(made, { recursive: true }));

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(join(folder, name)).isFile(),
  );
}

describe("what `npm run generate` writes", () => {
  beforeAll(() => {
    execFileSync(process.execPath, [join(ROOT, "scripts", "generate.mjs"), "--out", made]);
  });

  it("is what is committed", () => {
    const files = filesUnder(made);
    expect(files.map((file) => relative(made, join(made, file))).sort()).toEqual([
      "contracts/openapi.json",
      "contracts/src/generated/engine-messages.schema.json",
    ]);
    for (const file of files) {
      const same = readFileSync(join(made, file), "utf8") === readFileSync(join(ROOT, file), "utf8");
      expect({ file, same }, "run `npm run generate` and commit what it writes").toEqual({ file, same: true });
    }
  });
});

/** Every `$ref` within a JSON document. */
function refsOf(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(refsOf);
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, part]) => (name === "$ref" ? [String(part)] : refsOf(part)));
}

function resolvePointer(document: unknown, pointer: string): unknown {
  return pointer
    .slice(2)
    .split("/")
    .reduce<unknown>((value, name) => (value as Record<string, unknown> | undefined)?.[name], document);
}

describe("the OpenAPI document", () => {
  const document = makeApiDocument();
  const operations = Object.entries(document.paths ?? {}).flatMap(([path, methods]) =>
    Object.entries(methods as Record<string, Operation>).map(([method, operation]) => ({ path, method, operation })),
  );
  interface Operation {
    readonly summary?: string;
    readonly security?: unknown[];
    readonly parameters?: { readonly in: string; readonly name: string }[];
    readonly responses: Record<string, unknown>;
  }

  it("has no reference to what it does not hold", () => {
    const refs = [...new Set(refsOf(document))];
    expect(refs.length).toBeGreaterThan(2);
    expect(refs.filter((ref) => !ref.startsWith("#/") || resolvePointer(document, ref) === undefined)).toEqual([]);
  });

  it("says of every operation what it does, that it takes a token, and what it answers without one", () => {
    expect(operations.length).toBeGreaterThan(10);
    for (const { path, method, operation } of operations) {
      const said = {
        summary: (operation.summary ?? "").length > 0,
        token: operation.security,
        unauthenticated: "401" in operation.responses,
        success: Object.keys(operation.responses).some((status) => status.startsWith("2")),
      };
      expect({ path, method, ...said }).toEqual({
        path,
        method,
        summary: true,
        token: [{ token: [] }],
        unauthenticated: true,
        success: true,
      });
    }
  });

  it("declares every parameter of a path, and the 404 that a wrong id gets", () => {
    for (const { path, method, operation } of operations.filter((one) => one.path.includes("{"))) {
      const declared = (operation.parameters ?? []).filter((one) => one.in === "path").map((one) => one.name);
      expect({ path, method, declared, missing: "404" in operation.responses }).toEqual({
        path,
        method,
        declared: [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]),
        missing: true,
      });
    }
  });
});

describe("the schema of engine messages", () => {
  interface Schemas {
    readonly $defs: Record<"ToEngine" | "FromEngine", { readonly $id: string; readonly oneOf: readonly object[] }>;
  }
  const { $defs } = JSON.parse(
    readFileSync(join(ROOT, "contracts", "src", "generated", "engine-messages.schema.json"), "utf8"),
  ) as Schemas;
  const typesOf = (schema: Schemas["$defs"]["ToEngine"]) =>
    schema.oneOf.map((one) => (one as { properties: { type: { const: string } } }).properties.type.const);

  it("has every message of both directions", () => {
    expect(typesOf($defs.ToEngine)).toEqual(["run", "publish", "abandon", "republish", "sweep", "exit"]);
    expect(typesOf($defs.FromEngine)).toEqual([
      "ready",
      "opened",
      "progress",
      "log",
      "keys",
      "staged",
      "done",
      "failed",
      "swept",
      "idle",
    ]);
    expect([ToEngine.options.length, FromEngine.options.length]).toEqual([6, 10]);
  });

  it("resolves within each direction, which is a schema of its own", () => {
    for (const schema of Object.values($defs)) {
      expect(refsOf(schema).filter((ref) => resolvePointer(schema, ref) === undefined)).toEqual([]);
    }
  });
});
