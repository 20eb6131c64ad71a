import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseNodeJson } from "./node-json.ts";

describe("what a node sends", () => {
  it("loses NULs and halves of surrogate pairs, in values and in names", () => {
    const sent = { "a\u0000b": "\u0000", half: ["x\ud83d", "\ude00y"] };
    expect(parseNodeJson(JSON.stringify(sent))).toEqual({ "a\u2400b": "\u2400", half: ["x\ufffd", "\ufffdy"] });
  });

  it("keeps escapes that only look like it", () => {
    const sent = { path: "C:\\u0000", pair: "\ud83d\ude00", text: "a \\ud800 of letters" };
    expect(parseNodeJson(JSON.stringify(sent))).toEqual(sent);
    expect(parseNodeJson('"\\ud83d\\ude00"')).toBe("\u{1f600}");
  });

  it("is otherwise what was sent, and always what Postgres can keep", () => {
    const unit = fc.constantFrom("a", "\\", '"', "\u0000", "\ud83d", "\ude00", "u0000", "\u2400", "é");
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 8 }), (units) => {
        const sent = units.join("");
        const wanted = sent.replaceAll("\u0000", "\u2400").toWellFormed();
        expect(parseNodeJson(JSON.stringify([sent]))).toEqual([wanted]);
      }),
    );
  });

  it("throws for what is not JSON", () => {
    expect(() => parseNodeJson("{\\u")).toThrow(SyntaxError);
  });
});
