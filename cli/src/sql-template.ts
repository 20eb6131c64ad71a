import { usageError } from "./cli-error.ts";

/** One place of a template that a value goes to, and what surrounds it there. */
type Place = "string" | "identifier" | "bare";
type Piece = { readonly text: string } | { readonly name: string; readonly place: Place };

export interface SqlTemplate {
  readonly names: ReadonlySet<string>;
  render(values: ReadonlyMap<string, string>): string;
}

const PLACEHOLDER = /^\{([A-Za-z_]\w*)\}/;
const NUMBER = /^[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
const BARE_WORDS = new Set(["true", "false"]);

/**
 * A SQL text with `{name}` in it; `{{` and `}}` stand for single braces. A value can't leave its place: inside '...' and "..." quotes are doubled,
 * and anywhere else only numbers and true/false are let in. Comments are left as they are.
 */
export function parseTemplate(sql: string): SqlTemplate {
  const pieces: Piece[] = [];
  let offset = 0;
  while (offset < sql.length) {
    const end = endOfRegion(sql, offset);
    const region = sql.slice(offset, end);
    if (isComment(region)) pieces.push({ text: region });
    else pieces.push(...splitRegion(region, placeOf(region), sql.slice(0, offset)));
    offset = end;
  }
  const names = new Set(pieces.flatMap((piece) => ("name" in piece ? [piece.name] : [])));
  const render = (values: ReadonlyMap<string, string>) =>
    pieces.map((piece) => ("name" in piece ? fill(piece.name, piece.place, values) : piece.text)).join("");
  return { names, render };
}

/** Where the quoted text, the comment, or the stretch of neither that begins here ends. */
function endOfRegion(sql: string, start: number): number {
  if (sql.startsWith("--", start)) return endOr(sql.indexOf("\n", start), sql.length);
  if (sql.startsWith("/*", start)) return endOfBlockComment(sql, start);
  const first = sql[start];
  if (first === "'" || first === '"' || first === "`") return endOfQuoted(sql, start, first);
  const next = /['"`]|--|\/\*/.exec(sql.slice(start));
  return next === null ? sql.length : start + next.index;
}

function endOfQuoted(sql: string, start: number, quote: string): number {
  const end = sql.indexOf(quote, start + 1);
  if (end < 0) throw usageError(`the SQL template has a ${quote} that is not closed`);
  return end + 1;
}

/** Block comments nest in Polars' SQL. */
function endOfBlockComment(sql: string, start: number): number {
  let depth = 0;
  const marks = /\/\*|\*\//g;
  marks.lastIndex = start;
  for (let mark = marks.exec(sql); mark !== null; mark = marks.exec(sql)) {
    depth += mark[0] === "/*" ? 1 : -1;
    if (depth === 0) return marks.lastIndex;
  }
  throw usageError("the SQL template has a /* that is not closed");
}

function endOr(found: number, otherwise: number): number {
  return found < 0 ? otherwise : found;
}

function isComment(region: string): boolean {
  return region.startsWith("--") || region.startsWith("/*");
}

function placeOf(region: string): Place | "backquoted" {
  if (region.startsWith("'")) return "string";
  if (region.startsWith('"')) return "identifier";
  return region.startsWith("`") ? "backquoted" : "bare";
}

function splitRegion(region: string, place: Place | "backquoted", before: string): Piece[] {
  const pieces: Piece[] = [];
  let text = "";
  for (let index = 0; index < region.length; index += 1) {
    const pair = region.slice(index, index + 2);
    const name = pair === "{{" ? undefined : PLACEHOLDER.exec(region.slice(index))?.[1];
    if (name !== undefined) {
      pieces.push({ text }, { name, place: checkPlace(name, place, before) });
      text = "";
      index += name.length + 1;
    } else {
      text += region[index];
      if (pair === "{{" || pair === "}}") index += 1;
    }
  }
  pieces.push({ text });
  return pieces;
}

function checkPlace(name: string, place: Place | "backquoted", before: string): Place {
  if (place === "backquoted") throw usageError(`{${name}} stands in backquotes; write "{${name}}" instead`);
  // E'..', R'..', $tag$ and their like have rules of their own for what ends them.
  if (place === "string" && /[\w$&]$/.test(before)) {
    throw usageError(`{${name}} stands in a string literal with a prefix; use a plain '...' literal`);
  }
  if (/\$\w*\$/.test(before)) throw usageError(`{${name}} can't be used together with $$ quotes; use '...'`);
  return place;
}

function fill(name: string, place: Place, values: ReadonlyMap<string, string>): string {
  const value = values.get(name);
  if (value === undefined) throw usageError(`the SQL template has {${name}}, which no parameter gives`);
  if (value.includes("\0")) throw usageError(`the value of {${name}} holds a NUL character`);
  if (place === "string") return value.replaceAll("'", "''");
  if (place === "identifier") return value.replaceAll('"', '""');
  if (BARE_WORDS.has(value.toLowerCase())) return value;
  if (!NUMBER.test(value)) {
    throw usageError(
      `{${name}} stands outside of quotes, where only numbers may go, and its value is "${value}"`,
      `write '{${name}}'`,
    );
  }
  // After a minus sign in the template, a second one would begin a comment.
  return /^[+-]/.test(value) ? `(${value})` : value;
}
