import { InvalidArgumentError } from "commander";

/** Parsers of option values. Each throws commander's error, which names the option, and ends with exit code 2. */

const UNITS_MS = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `90`, `90s`, `10m`, `1.5h`, `2d`: in milliseconds. A bare number is seconds. */
export function parseDurationMs(text: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?$/.exec(text.trim());
  if (!found) throw new InvalidArgumentError("Give a duration such as 90s, 10m, 2h or 1d.");
  return Math.round(Number(found[1]) * UNITS_MS[(found[2] ?? "s") as keyof typeof UNITS_MS]);
}

const UNITS_GIB = { m: 1 / 1024, g: 1, t: 1024 } as const;

/** `64`, `64G`, `64GiB`, `512MiB`: in GiB. Units are powers of 1024; a bare number is GiB. */
export function parseMemoryGiB(text: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*(?:([mgt])(?:i?b)?)?$/i.exec(text.trim());
  const memoryGiB = found ? Number(found[1]) * UNITS_GIB[(found[2] ?? "g").toLowerCase() as keyof typeof UNITS_GIB] : 0;
  if (memoryGiB <= 0) throw new InvalidArgumentError("Give an amount of memory such as 16GiB or 512MiB.");
  return memoryGiB;
}

/** A parser of whole numbers from `min` to `max`. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text.trim()) || value < min || value > max) {
      throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** Gathers a repeatable option. */
export function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}

/** Gathers `--label key=value`. */
export function collectLabels(text: string, before: Record<string, string> | undefined): Record<string, string> {
  const [key, value] = splitPair(text);
  if (value === undefined) throw new InvalidArgumentError("Give a label as key=value.");
  // Lists are asked for as key:value, and the server takes the first colon for the one between them.
  if (key.includes(":"))
    throw new InvalidArgumentError("A label's name can't have a colon in it: no list would find it.");
  return { ...before, [key]: value };
}

/** The one `--label key=value` that a list can be narrowed down by: the server takes no more, and to leave one out would show too much. */
export function onlyLabel(text: string, before: Record<string, string> | undefined): Record<string, string> {
  if (before !== undefined) throw new InvalidArgumentError("Only one label can be given here.");
  return collectLabels(text, before);
}

/** Splits at the first `=`; without one, the value is undefined. */
export function splitPair(text: string): [key: string, value: string | undefined] {
  const at = text.indexOf("=");
  const key = at < 0 ? text : text.slice(0, at);
  if (key.trim() === "") throw new InvalidArgumentError("The name before = is empty.");
  return [key.trim(), at < 0 ? undefined : text.slice(at + 1)];
}

const VARIABLE_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;

/** A parser that gathers `--env NAME=value`, and `--env NAME`, which takes the value from the CLI's own environment. */
export function variablesFrom(env: Readonly<Record<string, string | undefined>>) {
  return (text: string, before: Record<string, string> | undefined): Record<string, string> => {
    const [name, given] = splitPair(text);
    if (!VARIABLE_NAME.test(name)) throw new InvalidArgumentError(`${name} is not a name for an environment variable.`);
    const value = given ?? env[name];
    if (value === undefined) throw new InvalidArgumentError(`${name} is not set here; give it as ${name}=value.`);
    return { ...before, [name]: value };
  };
}
