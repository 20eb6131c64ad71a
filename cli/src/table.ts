import Table from "cli-table3";
import stringWidth from "string-width";

export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
  /** What to leave out first where there is too little room: 0 stays always, then the higher the sooner. Default 0. */
  readonly dropRank?: number;
  /** A column that may be cut short, and to what at least. Without it, a cell is shown whole or the column left out. */
  readonly minWidth?: number;
}

const GAP = "  ";
const NO_BORDERS = Object.fromEntries(
  ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right"]
    .concat(["left", "left-mid", "mid", "mid-mid", "right", "right-mid"])
    .map((name) => [name, ""]),
);

export interface TableLook {
  /** Room for a line; undefined for as much as it takes. */
  readonly width: number | undefined;
  readonly unicode: boolean;
  readonly paintTitle: (title: string) => string;
}

export interface RenderedTable {
  readonly text: string;
  /** Columns that there was no room for. */
  readonly leftOut: number;
}

/** A table without borders that fits into the width. Cells may hold colours. */
export function renderTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  look: TableLook,
): RenderedTable {
  const natural = columns.map((column, index) =>
    Math.max(stringWidth(column.title), ...rows.map((row) => stringWidth(row[index] ?? ""))),
  );
  const widths = fitColumns(columns, natural, look.width);
  const shown = columns.map((_, index) => index).filter((index) => widths[index] !== undefined);
  const table = new Table({
    chars: { ...NO_BORDERS, middle: GAP },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [], compact: true },
    truncate: look.unicode ? "…" : "~",
    colWidths: shown.map((index) => widths[index] ?? 0),
    colAligns: shown.map((index) => columns[index]?.align ?? "left"),
  });
  table.push(shown.map((index) => look.paintTitle(columns[index]?.title ?? "")));
  for (const row of rows) table.push(shown.map((index) => row[index] ?? ""));
  const lines = table.toString().split("\n");
  return { text: lines.map((line) => line.trimEnd()).join("\n"), leftOut: columns.length - shown.length };
}

/** The width of each column, or undefined for one that is left out. Flexible columns are cut first, then columns dropped by rank. */
export function fitColumns(
  columns: readonly Column[],
  natural: readonly number[],
  room: number | undefined,
): (number | undefined)[] {
  const widths: (number | undefined)[] = [...natural];
  if (room === undefined) return widths;
  while (true) {
    const needed = leastWidth(columns, widths);
    if (needed <= room) break;
    const dropped = nextToDrop(columns, widths);
    if (dropped === undefined) break;
    widths[dropped] = undefined;
  }
  return cutToFit(columns, widths, room);
}

function leastWidth(columns: readonly Column[], widths: readonly (number | undefined)[]): number {
  const least = widths.flatMap((width, index) =>
    width === undefined ? [] : [Math.min(width, columns[index]?.minWidth ?? width)],
  );
  return sum(least) + GAP.length * Math.max(least.length - 1, 0);
}

function nextToDrop(columns: readonly Column[], widths: readonly (number | undefined)[]): number | undefined {
  let found: number | undefined;
  for (const [index, column] of columns.entries()) {
    const rank = column.dropRank ?? 0;
    if (rank === 0 || widths[index] === undefined) continue;
    if (found === undefined || rank > (columns[found]?.dropRank ?? 0)) found = index;
  }
  return found;
}

/** Takes from the widest flexible column, one at a time, until the line fits. */
function cutToFit(columns: readonly Column[], widths: (number | undefined)[], room: number): (number | undefined)[] {
  const shown = widths.filter((width) => width !== undefined);
  let excess = sum(shown) + GAP.length * Math.max(shown.length - 1, 0) - room;
  while (excess > 0) {
    const widest = widestFlexible(columns, widths);
    if (widest === undefined) return widths;
    widths[widest] = (widths[widest] ?? 0) - 1;
    excess -= 1;
  }
  return widths;
}

function widestFlexible(columns: readonly Column[], widths: readonly (number | undefined)[]): number | undefined {
  let found: number | undefined;
  for (const [index, column] of columns.entries()) {
    const width = widths[index];
    if (width === undefined || column.minWidth === undefined || width <= column.minWidth) continue;
    if (found === undefined || width > (widths[found] ?? 0)) found = index;
  }
  return found;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
