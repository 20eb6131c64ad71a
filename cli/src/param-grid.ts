import { readFileSync } from "node:fs";
import { TASKS_PER_JOB_MAX } from "@frazil/contracts";
import { usageError } from "./cli-error.ts";
import { parseCsv } from "./csv.ts";

export interface Parameter {
  readonly name: string;
  readonly values: readonly string[];
}
/** One set of parameters: a value for each name. */
export type Row = ReadonlyMap<string, string>;

const VALUES_MAX = TASKS_PER_JOB_MAX;
const DAY_MS = 86_400_000;
const INT_RANGE = /^(-?\d{1,15})\.\.(-?\d{1,15})(?:\.\.(\d{1,15}))?$/;
const DATE_RANGE = /^(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})(?:\.\.(\d{1,6}))?$/;

/** `day=2024-01-01..2024-01-31`, `n=1..10`, `n=0..100..10`, `region=eu,us`, and `x=["a,b","c"]` for values with commas in them. */
export function parseParameter(text: string): Parameter {
  const at = text.indexOf("=");
  const name = text.slice(0, Math.max(at, 0)).trim();
  if (!/^[A-Za-z_]\w*$/.test(name)) throw usageError(`--param ${text}: give it as name=values, such as region=eu,us`);
  const given = text.slice(at + 1);
  const values = given.trimStart().startsWith("[")
    ? parseJsonValues(text, given)
    : given.split(",").flatMap((item) => expandRange(text, item));
  if (values.length > VALUES_MAX)
    throw usageError(`--param ${name} has ${values.length} values, and a job may have ${TASKS_PER_JOB_MAX} tasks`);
  return { name, values };
}

function parseJsonValues(text: string, given: string): string[] {
  let list: unknown;
  try {
    list = parseExactly(given);
  } catch {
    throw usageError(`--param ${text}: values that begin with [ are a JSON array`);
  }
  if (!Array.isArray(list) || list.length === 0) throw usageError(`--param ${text}: the JSON array is empty`);
  return list.map((item) => scalarText(`--param ${text}`, item));
}

function expandRange(text: string, item: string): string[] {
  const dates = DATE_RANGE.exec(item);
  if (dates) return expandDates(text, dates);
  const ints = INT_RANGE.exec(item);
  if (!ints) return [item];
  const [, first, last] = ints.map(Number) as [number, number, number];
  return expandInts(text, first, last, ints[3] === undefined ? 1 : Number(ints[3])).map(String);
}

/** Ends included, as in a shell's {1..3}; counts down when the end is below the start. */
function expandInts(text: string, first: number, last: number, step: number): number[] {
  if (step === 0) throw usageError(`--param ${text}: the step is 0`);
  const count = Math.floor(Math.abs(last - first) / step) + 1;
  if (count > VALUES_MAX)
    throw usageError(`--param ${text}: this range has ${count} values, and a job may have ${TASKS_PER_JOB_MAX} tasks`);
  const direction = last < first ? -step : step;
  return Array.from({ length: count }, (_, index) => first + index * direction);
}

function expandDates(text: string, found: RegExpExecArray): string[] {
  const [first, last] = [found[1], found[2]].map((day) => dayNumber(text, day ?? "")) as [number, number];
  const step = found[3] === undefined ? 1 : Number(found[3]);
  return expandInts(text, first, last, step).map((day) => new Date(day * DAY_MS).toISOString().slice(0, 10));
}

function dayNumber(text: string, day: string): number {
  const ms = Date.parse(`${day}T00:00:00Z`);
  // Date.parse takes 2024-02-30 for the 1st of March.
  if (Number.isNaN(ms) || new Date(ms).toISOString().slice(0, 10) !== day)
    throw usageError(`--param ${text}: ${day} is not a date`);
  return ms / DAY_MS;
}

/** Rows of a params file: CSV with a header line, or NDJSON of flat objects. */
export function readParamsFile(path: string): Row[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8").replace(/^\ufeff/, "");
  } catch (error) {
    throw usageError(`--params-file ${path} can't be read: ${(error as Error).message}`);
  }
  const rows = /^\s*\{/.test(text) ? parseNdjsonRows(path, text) : parseCsvRows(path, text);
  if (rows.length === 0) throw usageError(`--params-file ${path} holds no rows`);
  return rows;
}

function parseNdjsonRows(path: string, text: string): Row[] {
  return text.split("\n").flatMap((line, index) => {
    if (line.trim() === "") return [];
    const where = `--params-file ${path}, line ${index + 1}`;
    let value: unknown;
    try {
      value = parseExactly(line);
    } catch {
      throw usageError(`${where}: this is not JSON`);
    }
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw usageError(`${where}: this is not an object`);
    return [new Map(Object.entries(value).map(([name, item]) => [name, scalarText(`${where}: ${name}`, item)]))];
  });
}

function parseCsvRows(path: string, text: string): Row[] {
  const [header, ...records] = parseCsv(text, `--params-file ${path}`);
  if (header === undefined) return [];
  return records.map((record, index) => {
    if (record.length !== header.length) {
      throw usageError(
        `--params-file ${path}, row ${index + 1}: ${record.length} fields, and the header has ${header.length}`,
      );
    }
    return new Map(header.map((name, column) => [name.trim(), record[column] ?? ""]));
  });
}

/** A number of a JSON text, as it is written there: as a JavaScript number, an id above 2^53 would become another one. */
class WrittenNumber {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  /** For messages that show what the number stands in. */
  toJSON(): number {
    return Number(this.text);
  }
}

function parseExactly(json: string): unknown {
  // TypeScript's types do not have the third argument yet.
  const keepNumber = (_key: string, value: unknown, context?: { source: string }): unknown =>
    typeof value === "number" && context !== undefined ? new WrittenNumber(context.source) : value;
  return JSON.parse(json, keepNumber);
}

function scalarText(where: string, value: unknown): string {
  if (typeof value === "string" || typeof value === "boolean") return String(value);
  if (value instanceof WrittenNumber) return value.text;
  throw usageError(`${where}: ${JSON.stringify(value)} is neither text nor a number`);
}

/** Every row with every combination of the parameters; the last parameter changes fastest. */
export function* combine(rows: readonly Row[], parameters: readonly Parameter[]): Generator<Row> {
  const names = parameters.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) !== index || rows.some((row) => row.has(name)));
  if (repeated !== undefined) throw usageError(`the parameter ${repeated} is given more than once`);
  const count = parameters.reduce((product, { values }) => product * values.length, rows.length);
  if (count > TASKS_PER_JOB_MAX)
    throw usageError(`the grid has ${count} combinations, and a job may have ${TASKS_PER_JOB_MAX} tasks`);
  for (const row of rows) yield* extend(row, parameters);
}

function* extend(row: Row, parameters: readonly Parameter[]): Generator<Row> {
  const [first, ...rest] = parameters;
  if (first === undefined) {
    yield row;
    return;
  }
  for (const value of first.values) yield* extend(new Map([...row, [first.name, value]]), rest);
}
