import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseTemplate } from "./sql-template.ts";

const render = (sql: string, values: Record<string, string>) =>
  parseTemplate(sql).render(new Map(Object.entries(values)));

describe("SQL templates", () => {
  it("doubles quotes of the kind that surround the place", () => {
    expect(render(`SELECT "{c}" FROM t WHERE x = '{v}'`, { c: 'a"b', v: "it's" })).toBe(
      `SELECT "a""b" FROM t WHERE x = 'it''s'`,
    );
  });

  it("a value can't end the string that it stands in, whatever it is", () => {
    fc.assert(
      fc.property(
        fc.string().filter((text) => !text.includes("\0")),
        (value) => {
          const sql = render("SELECT '<{v}>' AS x", { v: value });
          // The SQL standard's string literal: everything up to a quote that is not doubled.
          const literal = /^SELECT '((?:[^']|'')*)' AS x$/.exec(sql);
          expect(literal?.[1]?.replaceAll("''", "'")).toBe(`<${value}>`);
        },
      ),
    );
  });

  it("outside of quotes only numbers and true/false get in", () => {
    expect(render("SELECT {a}, {b}, {c}", { a: "1.5e3", b: "TRUE", c: "-2" })).toBe("SELECT 1.5e3, TRUE, (-2)");
    for (const value of ["1; DROP", "x", "", "1 OR 1=1", "0x10", "--1", "1--"]) {
      expect(() => render("SELECT {a}", { a: value })).toThrow("outside of quotes");
    }
  });

  it("a minus before a negative number begins no comment", () => {
    expect(render("SELECT 5 -{n}", { n: "-3" })).toBe("SELECT 5 -(-3)");
  });

  it("leaves comments and other braces as they are, and takes {{ for {", () => {
    expect(render("SELECT {a} -- {b}\n/* {c} /* {d} */ {e} */, '{{x}} {y z} {'", { a: "1" })).toBe(
      "SELECT 1 -- {b}\n/* {c} /* {d} */ {e} */, '{x} {y z} {'",
    );
  });

  it("sees a string that goes on after a doubled quote", () => {
    expect(render("SELECT 'it''s {v}'", { v: "'" })).toBe("SELECT 'it''s '''");
  });

  it("names what is used, once", () => {
    expect([...parseTemplate("SELECT '{a}', '{b}', '{a}' -- {c}").names]).toEqual(["a", "b"]);
  });

  it.each([
    ["SELECT E'{v}'", "prefix"],
    ["SELECT `{v}`", "backquotes"],
    ["SELECT $$x$$, '{v}'", "$$"],
    ["SELECT '{v}", "not closed"],
    ["SELECT 1 /* {v}", "not closed"],
  ])("refuses %s", (sql, message) => expect(() => render(sql, { v: "1" })).toThrow(message));

  it("refuses a value that is not there, and one with NUL in it", () => {
    expect(() => render("SELECT '{v}'", {})).toThrow("no parameter gives");
    expect(() => render("SELECT '{v}'", { v: "a\0b" })).toThrow("NUL");
  });
});
