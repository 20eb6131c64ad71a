import stringWidth from "string-width";
import { describe, expect, it } from "vitest";
import { type Column, fitColumns, renderTable } from "./table.ts";

const look = (width: number | undefined) => ({ width, unicode: true, paintTitle: (title: string) => title });
const COLUMNS: Column[] = [
  { title: "ID" },
  { title: "NAME", minWidth: 6, dropRank: 2 },
  { title: "N", align: "right", dropRank: 1 },
];
const ROWS = [
  ["job_1", "a rather long name for a job", "7"],
  ["job_2", "数据处理", "1234"],
];

describe("renderTable", () => {
  it("shows everything where there is no limit", () => {
    const { text, leftOut } = renderTable(COLUMNS, ROWS, look(undefined));
    expect(leftOut).toBe(0);
    expect(text.split("\n")).toEqual([
      "ID     NAME                             N",
      "job_1  a rather long name for a job     7",
      "job_2  数据处理                      1234",
    ]);
  });

  it.each([12, 15, 18, 20, 24, 30, 40, 41, 80])("no line is wider than a terminal of %i columns", (width) => {
    const { text } = renderTable(COLUMNS, ROWS, look(width));
    for (const line of text.split("\n")) expect(stringWidth(line)).toBeLessThanOrEqual(width);
  });

  it("cuts flexible columns before it leaves any out", () => {
    const { text, leftOut } = renderTable(COLUMNS, ROWS, look(24));
    expect(leftOut).toBe(0);
    expect(text.split("\n")[1]).toBe("job_1  a rather l…     7");
  });

  it("leaves out the columns that matter least, and never one without a rank", () => {
    expect(renderTable(COLUMNS, ROWS, look(14)).text.split("\n")[0]).toBe("ID        N");
    expect(renderTable(COLUMNS, ROWS, look(7)).text.split("\n")).toEqual(["ID", "job_1", "job_2"]);
    expect(renderTable(COLUMNS, ROWS, look(1)).text.split("\n")).toEqual(["ID", "job_1", "job_2"]);
  });

  it("keeps every row in one line", () => {
    expect(renderTable([{ title: "A" }], [["one\n\ttwo"]], look(20)).text).toBe("A\none two");
  });

  it("does not count colours as width", () => {
    const { text } = renderTable([{ title: "A" }, { title: "B" }], [["\u001b[31mred\u001b[39m", "x"]], look(10));
    expect(text.split("\n")[0]).toBe("A    B");
  });
});

describe("fitColumns", () => {
  it("gives back natural widths where they fit exactly", () => {
    expect(fitColumns(COLUMNS, [5, 10, 4], 5 + 2 + 10 + 2 + 4)).toEqual([5, 10, 4]);
    expect(fitColumns(COLUMNS, [5, 10, 4], 5 + 2 + 10 + 2 + 3)).toEqual([5, 9, 4]);
  });
});
