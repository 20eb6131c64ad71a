import { usageError } from "./cli-error.ts";
import type { KeyInput } from "./job-spec.ts";
import type { NamedBytes } from "./python-frames.ts";

/** A key as it was given: a column by name, or a name and the Python source of a Polars expression. */
export interface KeySource {
  readonly name: string;
  readonly expr: string | null;
}

/** `day`, or `year=pl.col("day").dt.year()`. */
export function parseKey(text: string): KeySource {
  const found = /^\s*([^=()[\]]+?)\s*=(?!=)(.*)$/s.exec(text);
  if (found === null) {
    if (/^\s*pl\.\w+\(/.test(text)) {
      throw usageError(`--partition-by ${text}: give the expression a name`, `write it as name=${text.trim()}`);
    }
    if (text.trim() === "") throw usageError("--partition-by: the key is empty");
    return { name: text, expr: null };
  }
  const [, name, expr] = found as unknown as [string, string, string];
  if (expr.trim() === "") throw usageError(`--partition-by ${text}: there is no expression after =`);
  return { name, expr: expr.trim() };
}

export function parseKeys(texts: readonly string[] | undefined): KeySource[] {
  const keys = (texts ?? []).map(parseKey);
  const names = keys.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) !== index);
  if (repeated !== undefined) throw usageError(`--partition-by: the key ${repeated} is given twice`);
  return keys;
}

/** Those that Python has to evaluate. */
export function expressionsOf(keys: readonly KeySource[]): { name: string; expr: string }[] {
  return keys.flatMap(({ name, expr }) => (expr === null ? [] : [{ name, expr }]));
}

/** Keys as they travel. */
export function sentKeys(keys: readonly KeySource[], evaluated: readonly NamedBytes[]): KeyInput[] {
  const bytes = new Map(evaluated.map((one) => [one.name, one.bytes]));
  return keys.map(({ name }) => {
    const expr = bytes.get(name);
    return expr === undefined ? { name } : { name, expr: expr.toString("base64") };
  });
}
