import { globSync, readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { buffer } from "node:stream/consumers";
import { SQL_CHARS_MAX } from "@frazil/contracts";
import { usageError } from "./cli-error.ts";
import { formatCount } from "./format.ts";
import type { Io } from "./io.ts";
import { isPlan } from "./plan-bytes.ts";

/** What a word of the command line stands for. */
export type Target =
  | { readonly kind: "sql"; readonly name: string; readonly text: string }
  | { readonly kind: "plan"; readonly name: string; readonly bytes: Buffer }
  | { readonly kind: "python"; readonly name: string; readonly script: string; readonly frame: string | null };

const PYTHON_TARGET = /^(.+\.py)(?::([A-Za-z_]\w*))?$/;
const SQL_BEGIN = /^\s*(?:--|\/\*|\(|(?:select|with|from|values|show|explain|table)\b)/i;
const FILE_ENDING = /\.(?:sql|bin|plan|polars|ipc|json|txt)$/i;
const SQL_NAME_CHARS_MAX = 60;

/** SQL text, a file of SQL, a saved plan, `file.py`, `file.py:frame`, or `-` for SQL or a plan on stdin. */
export async function readTarget(io: Pick<Io, "cwd" | "stdin">, word: string): Promise<Target> {
  if (word === "-") return fromContent("stdin", await buffer(io.stdin));
  const python = PYTHON_TARGET.exec(word);
  if (python !== null && !word.includes("\n")) return pythonTarget(io.cwd, python[1] ?? "", python[2] ?? null);
  if (isFile(io.cwd, word)) return fromContent(word, readFile(io.cwd, word));
  if (SQL_BEGIN.test(word) && /\s/.test(word.trim())) return sqlTarget(sqlName(word), word);
  if (FILE_ENDING.test(word)) throw usageError(`there is no file ${word}`);
  throw usageError(
    `"${sqlName(word)}" is neither a file nor SQL`,
    "give SQL text that begins with SELECT, WITH or FROM, a .sql file, a saved plan, or file.py:frame",
  );
}

/** The words with patterns such as `plans/*.bin` replaced by the files that match, sorted. */
export function expandPatterns(cwd: string, words: readonly string[]): string[] {
  return words.flatMap((word) => {
    const [, path = word, frame] = /^(.+\.py)(:\w+)$/.exec(word) ?? [];
    if (!/[*?[\]{}]/.test(path) || /\s/.test(path) || isFile(cwd, path)) return [word];
    const found = globSync(path, { cwd })
      .filter((file) => isFile(cwd, file))
      .sort();
    if (found.length === 0) throw usageError(`no file matches ${path}`);
    return found.map((file) => file + (frame ?? ""));
  });
}

function pythonTarget(cwd: string, path: string, frame: string | null): Target {
  if (!isFile(cwd, path)) throw usageError(`there is no file ${path}`);
  return { kind: "python", name: frame === null ? path : `${path}:${frame}`, script: resolve(cwd, path), frame };
}

function fromContent(name: string, bytes: Buffer): Target {
  if (bytes.length === 0) throw usageError(`${name} is empty`);
  if (isPlan(bytes)) return { kind: "plan", name, bytes };
  const text = decodeText(bytes);
  if (text === undefined) {
    throw usageError(`${name} is neither a Polars plan nor SQL text`, "save a plan with `lf.serialize('plan.bin')`");
  }
  if (/^\s*\{/.test(text)) {
    throw usageError(
      `${name} looks like a plan in JSON, which can't be run`,
      "save it in binary: `lf.serialize('plan.bin')`",
    );
  }
  return sqlTarget(name, text);
}

function sqlTarget(name: string, text: string): Target {
  if (text.trim() === "") throw usageError(`${name} holds no SQL`);
  if (text.length > SQL_CHARS_MAX) {
    throw usageError(
      `${name} has ${formatCount(text.length, "character")}, and SQL text may have ${formatCount(SQL_CHARS_MAX, "character")}`,
    );
  }
  return { kind: "sql", name, text };
}

/** SQL as a name: its first words, in one line. */
export function sqlName(sql: string): string {
  const line = sql.replace(/\s+/g, " ").trim();
  return line.length > SQL_NAME_CHARS_MAX ? `${line.slice(0, SQL_NAME_CHARS_MAX - 3)}...` : line;
}

function decodeText(bytes: Buffer): string | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.includes("\0") ? undefined : text;
  } catch {
    return undefined;
  }
}

function isFile(cwd: string, path: string): boolean {
  try {
    return statSync(resolve(cwd, path)).isFile();
  } catch {
    return false;
  }
}

function readFile(cwd: string, path: string): Buffer {
  try {
    return readFileSync(resolve(cwd, path));
  } catch (error) {
    throw usageError(`${path} can't be read: ${(error as Error).message}`);
  }
}
