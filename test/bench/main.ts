import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { type Options, say } from "./benchmark.ts";
import { BENCHMARKS } from "./benchmarks.ts";
import { describeMachine } from "./machine.ts";
import { makeBenchDir } from "./paths.ts";
import { type BenchmarkReport, type Report, renderReport, replaceFigures } from "./report.ts";

const USAGE = `npm run bench -- [name ...] [--profile] [--alone] [--json FILE] [--markdown FILE]

Starts what it needs, and prints figures beside those of baselines that ran in the same run. Names (default: all):
${Object.entries(BENCHMARKS)
  .map(([name, { title }]) => `  ${name.padEnd(12)}${title}`)
  .join("\n")}

  --profile        also prints the CPU time that each process took
  --alone          only Frazil, without the baselines
  --json FILE      writes the figures as JSON
  --markdown FILE  writes them between the marks of a page
`;

process.exitCode = await main(process.argv.slice(2));
// Whatever a library left open ends with this process.
process.exit();

async function main(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      profile: { type: "boolean", default: false },
      alone: { type: "boolean", default: false },
      json: { type: "string" },
      markdown: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  const unknown = positionals.filter((name) => !(name in BENCHMARKS));
  if (values.help || unknown.length > 0) {
    process.stderr.write(`${unknown.map((name) => `There is no benchmark ${name}.\n`).join("")}${USAGE}`);
    return unknown.length > 0 ? 2 : 0;
  }
  await makeBenchDir();
  const startedAt = new Date().toISOString();
  const names = positionals.length > 0 ? positionals : Object.keys(BENCHMARKS);
  const benchmarks: BenchmarkReport[] = [];
  for (const name of names) benchmarks.push(await runOne(name, values));
  const report: Report = { machine: describeMachine(), startedAt, benchmarks };
  const lines = renderReport(report);
  process.stdout.write(`${lines.join("\n")}\n`);
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
  if (values.markdown !== undefined)
    await writeFile(values.markdown, replaceFigures(await readFile(values.markdown, "utf8"), lines));
  return 0;
}

async function runOne(name: string, options: Options): Promise<BenchmarkReport> {
  const benchmark = BENCHMARKS[name];
  if (benchmark === undefined) throw new Error(`no benchmark ${name}`);
  say(`== ${name}: ${benchmark.title}`);
  const startedAtMs = performance.now();
  const finding = await benchmark.run(options);
  return { name, title: benchmark.title, seconds: (performance.now() - startedAtMs) / 1_000, ...finding };
}
