import { expect, test } from "vitest";
import { formatNumber, replaceFigures } from "./report.ts";

test("figures replace what stood between the marks, and nothing else", () => {
  const begin = "<!-- figures: written by npm run bench -- --markdown -->";
  const page = `before\n${begin}\nold\n<!-- end of figures -->\nafter\n`;
  const replaced = replaceFigures(page, ["new", "lines"]);
  expect(replaced).toBe(`before\n${begin}\nnew\nlines\n<!-- end of figures -->\nafter\n`);
  expect(replaceFigures(replaced, ["new", "lines"])).toBe(replaced);
  expect(() => replaceFigures("no marks", [])).toThrow("needs the marks");
});

test("numbers have as many digits as they are worth", () => {
  expect([0.01234, 1.5, 123.4, 12345.6, 3, null].map(formatNumber)).toEqual([
    "0.0123",
    "1.50",
    "123",
    "12,346",
    "3",
    "-",
  ]);
});
