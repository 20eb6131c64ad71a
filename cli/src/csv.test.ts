import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseCsv } from "./csv.ts";

describe("parseCsv", () => {
  it("reads quotes, commas and newlines in fields, and both line ends", () => {
    expect(parseCsv('a,b\r\n"x, ""y""\nz",\n\n,2', "f")).toEqual([
      ["a", "b"],
      ['x, "y"\nz', ""],
      ["", "2"],
    ]);
  });

  it("refuses a quote that is out of place", () => {
    expect(() => parseCsv('a\n"b', "f")).toThrow("f: row 2");
    expect(() => parseCsv('a\n"b"c', "f")).toThrow("f: row 2");
  });

  it("reads back whatever was written", () => {
    const write = (rows: string[][]) =>
      rows.map((row) => row.map((field) => `"${field.replaceAll('"', '""')}"`).join(",")).join("\n");
    const rows = fc.array(fc.array(fc.string({ minLength: 1 }), { minLength: 1, maxLength: 4 }), { maxLength: 5 });
    fc.assert(
      fc.property(rows, (table) => {
        expect(parseCsv(write(table), "f")).toEqual(table);
      }),
    );
  });
});
