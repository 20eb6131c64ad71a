import { describe, expect, it } from "vitest";
import {
  collectLabels,
  onlyLabel,
  parseDurationMs,
  parseMemoryGiB,
  variablesFrom,
  wholeNumber,
} from "./option-values.ts";

describe("durations", () => {
  it.each([
    ["90", 90_000],
    ["250ms", 250],
    ["10m", 600_000],
    ["10min", 600_000],
    ["1.5h", 5_400_000],
    ["2d", 172_800_000],
  ])("%s is %i ms", (text, ms) => expect(parseDurationMs(text)).toBe(ms));

  it.each(["", "-1s", "10 years", "1h30m", "NaN"])("%j is refused", (text) => {
    expect(() => parseDurationMs(text)).toThrow("such as 90s");
  });
});

describe("memory", () => {
  it.each([
    ["64", 64],
    ["64G", 64],
    ["64GiB", 64],
    ["64gb", 64],
    ["512MiB", 0.5],
    ["1T", 1024],
  ])("%s is %d GiB", (text, gib) => expect(parseMemoryGiB(text)).toBe(gib));

  it.each(["0", "-3", "12KB", "lots"])("%j is refused", (text) => {
    expect(() => parseMemoryGiB(text)).toThrow("16GiB");
  });
});

describe("other values", () => {
  it("whole numbers stay within their limits", () => {
    const parse = wholeNumber(1, 10);
    expect(parse("10")).toBe(10);
    for (const text of ["0", "11", "1.5", "1e1", "", "x"]) expect(() => parse(text)).toThrow("from 1 to 10");
  });

  it("labels are split at the first =", () => {
    expect(collectLabels("a=b=c", { x: "y" })).toEqual({ x: "y", a: "b=c" });
    expect(() => collectLabels("a", undefined)).toThrow("key=value");
  });

  it("a label's name has no colon, since a list would be asked for another label", () => {
    expect(collectLabels("app=env:prod", undefined)).toEqual({ app: "env:prod" });
    for (const gather of [collectLabels, onlyLabel])
      expect(() => gather("app:env=prod", undefined)).toThrow("can't have a colon");
  });

  it("a variable without a value is taken from the environment", () => {
    const collect = variablesFrom({ KEY: "secret" });
    expect(collect("KEY", undefined)).toEqual({ KEY: "secret" });
    expect(collect("OTHER=", { KEY: "x" })).toEqual({ KEY: "x", OTHER: "" });
    expect(() => collect("MISSING", undefined)).toThrow("not set here");
    expect(() => collect("1X=2", undefined)).toThrow("not a name");
  });
});
