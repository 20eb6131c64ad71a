import { stripVTControlCharacters } from "node:util";
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
  given: readonly (readonly string[])[],
  look: TableLook,
): RenderedTable {
  const rows = given.map((row) => row.map((text) => text.replace(/\s*[\r\n\t]\s*/g, " ")));
  const natural = columns.map(({ title }, index) =>
    rows.reduce((widest, row) => Math.max(widest, stringWidth(row[index] ?? "")), stringWidth(title)),
  );
  const widths = fitColumns(columns, natural, look.width);
  const shown = columns.map((_, index) => index).filter((index) => widths[index] !== undefined);
  const line = (cells: readonly string[]) =>
    shown
      .map((index) => fitCell(cells[index] ?? "", widths[index] ?? 0, columns[index]?.align ?? "left", look.unicode))
      .join(GAP)
      .trimEnd();
  const titles = columns.map(({ title }) => look.paintTitle(title));
  return { text: [titles, ...rows].map(line).join("\n"), leftOut: columns.length - shown.length };
}

/** A cell in exactly this width. One that is cut loses its colours. */
function fitCell(text: string, width: number, align: "left" | "right", unicode: boolean): string {
  const own = stringWidth(text);
  const shown = own <= width ? text : cutText(stripVTControlCharacters(text), width, unicode ? "…" : "~");
  const padding = " ".repeat(Math.max(width - stringWidth(shown), 0));
  return align === "left" ? shown + padding : padding + shown;
}

function cutText(text: string, width: number, mark: string): string {
  let kept = "";
  let used = 1;
  for (const character of text) {
    used += stringWidth(character);
    if (used > width) break;
    kept += character;
  }
  return kept + mark;
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
