/** What a benchmark found out: figures by subject, and Frazil's as ratios to those of baselines that ran beside it. */
export interface Finding {
  readonly measurements: readonly Measurement[];
  readonly ratios: readonly Ratio[];
  readonly notes: readonly string[];
}
export interface Measurement {
  readonly subject: string;
  /** By name, which ends in the unit. */
  readonly figures: Readonly<Record<string, number | null>>;
}
export interface Ratio {
  /** "throughput of spawn_many over Ray's", and so on. */
  readonly name: string;
  readonly value: number;
  /** What it should be, where there is a goal. */
  readonly goal?: string;
}

export interface BenchmarkReport extends Finding {
  readonly name: string;
  readonly title: string;
  readonly seconds: number;
}

export interface Report {
  readonly machine: Readonly<Record<string, string | number>>;
  readonly startedAt: string;
  readonly benchmarks: readonly BenchmarkReport[];
}

/** A value in as many digits as it is worth. */
export function formatNumber(value: number | null): string {
  if (value === null) return "-";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  if (Math.abs(value) >= 1_000) return Math.round(value).toLocaleString("en-US");
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** Rows of cells as a table that a terminal and Markdown both show. */
function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((name, at) => Math.max(name.length, ...rows.map((row) => (row[at] ?? "").length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0))).join(" | ")} |`;
  const rule = `| ${widths.map((width, at) => (at === 0 ? "-".repeat(width) : `${"-".repeat(Math.max(1, width - 1))}:`)).join(" | ")} |`;
  return [line(head), rule, ...rows.map(line)];
}

export function renderBenchmark(report: BenchmarkReport): string[] {
  const names = [...new Set(report.measurements.flatMap(({ figures }) => Object.keys(figures)))];
  const rows = report.measurements.map(({ subject, figures }) => [
    subject,
    ...names.map((name) => (name in figures ? formatNumber(figures[name] ?? null) : "")),
  ]);
  const ratios = report.ratios.map(({ name, value, goal }) => [name, formatNumber(value), goal ?? ""]);
  return [
    ...renderTable(["", ...names], rows),
    ...(ratios.length === 0 ? [] : ["", ...renderTable(["in this run", "figure", "goal"], ratios)]),
    ...report.notes.flatMap((note) => ["", note]),
  ];
}

export function renderReport({ machine, startedAt, benchmarks }: Report): string[] {
  const machineText = Object.entries(machine).map(([name, value]) => `${name} ${value}`);
  return [
    `Measured ${startedAt.slice(0, 10)} on: ${machineText.join("; ")}.`,
    ...benchmarks.flatMap((one) => [
      "",
      `### ${one.title} (\`${one.name}\`, ${formatNumber(Math.round(one.seconds))} s)`,
      "",
      ...renderBenchmark(one),
    ]),
  ];
}

const BEGIN = "<!-- figures: written by npm run bench -- --markdown -->";
const END = "<!-- end of figures -->";

/** Replaces what stands between the two marks of a page. */
export function replaceFigures(page: string, lines: readonly string[]): string {
  const from = page.indexOf(BEGIN);
  const to = page.indexOf(END);
  if (from === -1 || to < from) throw new Error(`the page needs the marks ${BEGIN} and ${END}`);
  return `${page.slice(0, from + BEGIN.length)}\n${lines.join("\n")}\n${page.slice(to)}`;
}
