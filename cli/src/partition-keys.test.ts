import { describe, expect, it } from "vitest";
import { parseKeys, sentKeys } from "./partition-keys.ts";

describe("partition keys", () => {
  it("are columns by name, or named expressions", () => {
    expect(parseKeys(["day", 'year=pl.col("d").dt.year()', 'big = pl.col("v") == 3', "odd name"])).toEqual([
      { name: "day", expr: null },
      { name: "year", expr: 'pl.col("d").dt.year()' },
      { name: "big", expr: 'pl.col("v") == 3' },
      { name: "odd name", expr: null },
    ]);
  });

  it.each([
    ['pl.col("d").dt.year()', "give the expression a name"],
    ['pl.col("v") == 3', "give the expression a name"],
    ["year=", "no expression"],
    [" ", "empty"],
  ])("%s is refused", (text, message) => expect(() => parseKeys([text])).toThrow(message));

  it("can't be given twice", () => {
    expect(() => parseKeys(["day", "day=pl.lit(1)"])).toThrow("given twice");
  });

  it("travel in order, expressions in base64", () => {
    const keys = parseKeys(["day", "y=pl.lit(1)"]);
    expect(sentKeys(keys, [{ name: "y", bytes: Buffer.from("expr") }])).toEqual([
      { name: "day" },
      { name: "y", expr: Buffer.from("expr").toString("base64") },
    ]);
  });
});
