import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { combine, parseParameter, readParamsFile } from "./param-grid.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-params-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const valuesOf = (text: string) => parseParameter(text).values;

describe("parameters", () => {
  it("are lists, ranges, and both", () => {
    expect(valuesOf("r=eu,us")).toEqual(["eu", "us"]);
    expect(valuesOf("n=1..3,7")).toEqual(["1", "2", "3", "7"]);
    expect(valuesOf("n=0..10..4")).toEqual(["0", "4", "8"]);
    expect(valuesOf("n=2..-1")).toEqual(["2", "1", "0", "-1"]);
    expect(valuesOf("x=")).toEqual([""]);
    expect(valuesOf("x=a..b")).toEqual(["a..b"]);
  });

  it("dates go over the ends of months and leap days", () => {
    expect(valuesOf("d=2024-02-27..2024-03-01")).toEqual(["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01"]);
    expect(valuesOf("d=2024-01-01..2024-12-31")).toHaveLength(366);
    expect(valuesOf("d=2024-01-01..2024-01-31..7")).toHaveLength(5);
    expect(valuesOf("d=2024-01-02..2024-01-01")).toEqual(["2024-01-02", "2024-01-01"]);
  });

  it("values with commas come as JSON", () => {
    expect(valuesOf('c=["a,b", 1, true]')).toEqual(["a,b", "1", "true"]);
    expect(valuesOf("id=[9007199254740993, -1e3, 1.50]")).toEqual(["9007199254740993", "-1e3", "1.50"]);
  });

  it.each([
    ["day", "name=values"],
    ["2x=1", "name=values"],
    ["n=1..5..0", "step is 0"],
    ["n=1..99999999", "values"],
    ["d=2024-02-30..2024-03-01", "2024-02-30 is not a date"],
    ["c=[]", "empty"],
    ["c=[1", "JSON array"],
    ["c=[null]", "neither text nor a number"],
  ])("%s is refused", (text, message) => expect(() => parseParameter(text)).toThrow(message));
});

describe("combine", () => {
  it("is every row with every combination, the last parameter fastest", () => {
    const rows = [new Map([["f", "x"]]), new Map([["f", "y"]])];
    const parameters = [parseParameter("a=1,2"), parseParameter("b=p,q")];
    const texts = [...combine(rows, parameters)].map((row) => [...row.values()].join(""));
    expect(texts).toEqual(["x1p", "x1q", "x2p", "x2q", "y1p", "y1q", "y2p", "y2q"]);
  });

  it("refuses names that are given twice, and grids that are too large", () => {
    expect(() => [...combine([new Map()], [parseParameter("a=1"), parseParameter("a=2")])]).toThrow("more than once");
    expect(() => [...combine([new Map([["a", "1"]])], [parseParameter("a=1")])]).toThrow("more than once");
    expect(() => [...combine([new Map()], [parseParameter("a=1..2000"), parseParameter("b=1..2000")])]).toThrow(
      "4000000",
    );
  });
});

describe("params files", () => {
  it("are CSV with a header line", () => {
    const rows = readParamsFile(file("a.csv", '\ufeffday,city\n2024-01-01,"Den Haag, NL"\n2024-01-02,Ede\n'));
    expect(rows.map((row) => Object.fromEntries(row))).toEqual([
      { day: "2024-01-01", city: "Den Haag, NL" },
      { day: "2024-01-02", city: "Ede" },
    ]);
  });

  it("are NDJSON", () => {
    const rows = readParamsFile(file("a.ndjson", '{"n": 1, "s": "x"}\n\n{"n": 2.5, "s": "y"}\n'));
    expect(rows.map((row) => Object.fromEntries(row))).toEqual([
      { n: "1", s: "x" },
      { n: "2.5", s: "y" },
    ]);
  });

  it("keep numbers as they are written: ids above 2^53 too", () => {
    const path = file("ids.ndjson", '{"id": 9007199254740993, "x": 1e3}\n');
    expect(readParamsFile(path).map((row) => Object.fromEntries(row))).toEqual([{ id: "9007199254740993", x: "1e3" }]);
  });

  it.each([
    ["b.csv", "a,b\n1\n", "1 fields, and the header has 2"],
    ["c.csv", "a,b\n", "no rows"],
    ["d.ndjson", '{"a": 1}\nnonsense\n', "line 2: this is not JSON"],
    ["e.ndjson", '{"a": [1]}\n', "a: [1] is neither"],
  ])("%s is refused", (name, text, message) => expect(() => readParamsFile(file(name, text))).toThrow(message));

  it("says which file is missing", () => {
    expect(() => readParamsFile(join(folder, "none.csv"))).toThrow("none.csv can't be read");
  });
});
