import { JobSpec, POLARS_RELEASES, type PolarsRelease, Problem } from "@frazil/contracts";
import { describe, expect, it } from "vitest";
import { checkPlanBytes, checkRelease, checkSpec } from "./check-spec.ts";

const newest = POLARS_RELEASES.at(-1) as PolarsRelease;
const spec = (over: Record<string, unknown> = {}) =>
  JobSpec.parse({ client: { polars: newest.version, python: "3.11" }, ...over });

function planOf(schemaHash: string): Buffer {
  return Buffer.concat([
    Buffer.from("DSL_VERSION"),
    Buffer.from([24, 0, 0, 0]),
    Buffer.from(schemaHash),
    Buffer.from([0x80]),
  ]);
}

function codeOf(check: () => void): string | undefined {
  try {
    check();
  } catch (error) {
    return error instanceof Problem ? error.code : String(error);
  }
  return undefined;
}

describe("a plan's header", () => {
  it("is accepted when the release that the client names can open it", () => {
    expect(codeOf(() => checkPlanBytes(planOf(newest.schemaHash), spec()))).toBeUndefined();
  });

  it("is refused when it is no header, unknown, or another release's", () => {
    expect(codeOf(() => checkPlanBytes(Buffer.from("hello"), spec()))).toBe("invalid_plan");
    expect(codeOf(() => checkPlanBytes(planOf("0".repeat(64)), spec()))).toBe("unsupported_polars");
    const oldest = POLARS_RELEASES[0] as PolarsRelease;
    expect(codeOf(() => checkPlanBytes(planOf(oldest.schemaHash), spec()))).toBe("unsupported_polars");
  });

  it("names the supported releases when it refuses", () => {
    expect(() => checkPlanBytes(planOf("0".repeat(64)), spec())).toThrow(newest.version);
    expect(() => checkRelease(spec({ client: { polars: "0.20.0", python: "3.11" } }))).toThrow(newest.version);
  });
});

describe("a submission", () => {
  it("is refused by name when it asks for what is not offered", () => {
    expect(codeOf(() => checkSpec(spec({ scaling: "distributed" })))).toBe("not_available");
    expect(codeOf(() => checkSpec(spec({ output: { destination: "ftp://host/x" } })))).toBe("unprocessable");
    expect(codeOf(() => checkSpec(spec({ output: { destination: "s3://bucket/x/" } })))).toBeUndefined();
    expect(codeOf(() => checkSpec(spec({ output: { destination: "/data/x" } })))).toBeUndefined();
  });

  it("is refused when it has credentials among the options that everyone sees", () => {
    const options = { compression: "zstd", storage_options: { key: "k" } };
    expect(codeOf(() => checkSpec(spec({ output: { options } })))).toBe("invalid_request");
    expect(codeOf(() => checkSpec(spec({ output: { options: { compression: "zstd" } } })))).toBeUndefined();
  });
});
