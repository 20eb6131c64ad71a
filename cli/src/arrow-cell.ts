import type { DataType } from "@uwdata/flechette";
import { withoutControls } from "./format.ts";

const CELL_CHARS_MAX = 60;
const ITEMS_SHOWN_MAX = 4;

/** Numbers of Arrow's types, and of its units of time, as its format has them (Schema.fbs). */
const TYPE = {
  float: 3,
  binary: 4,
  decimal: 7,
  date: 8,
  time: 9,
  timestamp: 10,
  list: 12,
  struct: 13,
  fixedBinary: 15,
  fixedList: 16,
  duration: 18,
  largeBinary: 19,
  largeList: 21,
  binaryView: 23,
} as const;
const NANOS_PER_UNIT = [1_000_000_000n, 1_000_000n, 1_000n, 1n] as const;

interface KnownType {
  readonly typeId: number;
  readonly unit?: number;
  readonly timezone?: string | null;
  readonly scale?: number;
  readonly children?: readonly { readonly name: string; readonly type: DataType }[];
}

/** A value in one line, much as Polars shows it. */
export function formatCell(value: unknown, type: DataType): string {
  const text = withoutControls(formatValue(value, type).replace(/\r?\n/g, "\\n"));
  return text.length > CELL_CHARS_MAX ? `${text.slice(0, CELL_CHARS_MAX - 1)}…` : text;
}

function formatValue(value: unknown, type: DataType): string {
  if (value === null || value === undefined) return "null";
  const known = type as KnownType;
  switch (known.typeId) {
    case TYPE.float:
      return formatFloat(Number(value));
    case TYPE.decimal:
      return formatDecimal(BigInt(value as bigint), known.scale ?? 0);
    case TYPE.date:
      return new Date(Number(value)).toISOString().slice(0, 10);
    case TYPE.timestamp:
      return formatTimestamp(Number(value), known.timezone ?? null);
    case TYPE.time:
      return formatTime(toNanos(value, known.unit));
    case TYPE.duration:
      return formatSpan(toNanos(value, known.unit));
    case TYPE.binary:
    case TYPE.largeBinary:
    case TYPE.binaryView:
    case TYPE.fixedBinary:
      return formatBinary(value as Uint8Array);
    case TYPE.list:
    case TYPE.largeList:
    case TYPE.fixedList:
      return formatList(Array.from(value as Iterable<unknown>), known.children?.[0]?.type);
    case TYPE.struct:
      return formatStruct(value as Record<string, unknown>, known.children ?? []);
    default:
      return String(value);
  }
}

function formatFloat(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4)) return value.toExponential(6).replace(/\.?0+e/, "e");
  return Number.isInteger(value) ? value.toFixed(1) : String(Number(value.toFixed(6)));
}

function formatDecimal(digits: bigint, scale: number): string {
  if (scale === 0) return digits.toString();
  const text = (digits < 0n ? -digits : digits).toString().padStart(scale + 1, "0");
  return `${digits < 0n ? "-" : ""}${text.slice(0, -scale)}.${text.slice(-scale)}`;
}

/** Milliseconds since 1970 with a fraction, in the column's zone. */
function formatTimestamp(ms: number, timezone: string | null): string {
  const whole = Math.floor(ms);
  const micros = Math.round((ms - whole) * 1_000) + (((whole % 1_000) + 1_000) % 1_000) * 1_000;
  const shown =
    timezone === null ? new Date(whole).toISOString().slice(0, 19).replace("T", " ") : inZone(whole, timezone);
  return shown + formatFraction(BigInt(micros) * 1_000n);
}

function inZone(ms: number, timezone: string): string {
  // The Swedish way of writing dates is ISO 8601's.
  const format = new Intl.DateTimeFormat("sv-SE", { timeZone: timezone, dateStyle: "short", timeStyle: "medium" });
  return format.format(ms);
}

function toNanos(value: unknown, unit: number | undefined): bigint {
  return BigInt(value as bigint | number) * (NANOS_PER_UNIT[unit ?? 3] ?? 1n);
}

function formatTime(nanos: bigint): string {
  const seconds = Number(nanos / 1_000_000_000n);
  const parts = [Math.floor(seconds / 3_600), Math.floor((seconds % 3_600) / 60), seconds % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":") + formatFraction(nanos % 1_000_000_000n);
}

function formatFraction(nanos: bigint): string {
  if (nanos === 0n) return "";
  const digits = nanos.toString().padStart(9, "0");
  return `.${digits.replace(/(?:0{3})+$/, "")}`;
}

const SPAN_UNITS = [
  ["d", 86_400_000_000_000n],
  ["h", 3_600_000_000_000n],
  ["m", 60_000_000_000n],
  ["s", 1_000_000_000n],
  ["ms", 1_000_000n],
  ["µs", 1_000n],
  ["ns", 1n],
] as const;

/** `1d 2h 5µs`, as Polars writes durations. */
function formatSpan(nanos: bigint): string {
  if (nanos === 0n) return "0s";
  let rest = nanos < 0n ? -nanos : nanos;
  const parts: string[] = [];
  for (const [unit, size] of SPAN_UNITS) {
    if (rest >= size) parts.push(`${rest / size}${unit}`);
    rest %= size;
  }
  return (nanos < 0n ? "-" : "") + parts.join(" ");
}

function formatBinary(bytes: Uint8Array): string {
  const shown = Array.from(bytes.subarray(0, CELL_CHARS_MAX), (byte) => {
    if (byte < 0x20 || byte >= 0x7f) return `\\x${byte.toString(16).padStart(2, "0")}`;
    const character = String.fromCharCode(byte);
    return character === '"' || character === "\\" ? `\\${character}` : character;
  });
  return `b"${shown.join("")}"`;
}

function formatList(items: readonly unknown[], type: DataType | undefined): string {
  const shown = items
    .slice(0, ITEMS_SHOWN_MAX)
    .map((item) => (type === undefined ? String(item) : formatNested(item, type)));
  return `[${shown.join(", ")}${items.length > ITEMS_SHOWN_MAX ? ", …" : ""}]`;
}

function formatStruct(value: Record<string, unknown>, children: NonNullable<KnownType["children"]>): string {
  return `{${children.map(({ name, type }) => formatNested(value[name], type)).join(", ")}}`;
}

function formatNested(value: unknown, type: DataType): string {
  return typeof value === "string" ? JSON.stringify(value) : formatValue(value, type);
}
