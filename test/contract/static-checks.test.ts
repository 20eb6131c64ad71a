import { execFile } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const WORKSPACES = ["contracts", "control-plane", "infra", "runner/agent", "migrations", "cli", "test"];
const OUTPUT_MAX_BYTES = 64 * 1024 * 1024;

const copy = mkdtempSync(join(tmpdir(), "frazil-static-checks-"));
afterAll(() => rmSync(copy, { recursive: true }));

/** Copies the sources, with workspaces that resolve to the copy and packages that resolve to the installed ones. */
beforeAll(() => {
  for (const file of ["package.json", "tsconfig.json", "biome.json", ".dependency-cruiser.cjs"])
    cpSync(join(ROOT, file), join(copy, file));
  for (const workspace of WORKSPACES) {
    cpSync(join(ROOT, workspace), join(copy, workspace), {
      recursive: true,
      filter: (path) => !["node_modules", "__pycache__"].includes(basename(path)),
    });
  }
  mkdirSync(join(copy, "node_modules", "@frazil"), { recursive: true });
  for (const name of readdirSync(join(ROOT, "node_modules"))) {
    if (name !== "@frazil") symlinkSync(join(ROOT, "node_modules", name), join(copy, "node_modules", name));
  }
  for (const workspace of WORKSPACES) {
    symlinkSync(join(copy, workspace), join(copy, "node_modules", "@frazil", basename(workspace)));
    const own = join(ROOT, workspace, "node_modules");
    if (existsSync(own)) symlinkSync(own, join(copy, workspace, "node_modules"));
  }
});

/** Runs a command of the project in the copy; a failing check is an answer here, not an error. */
function runInCopy(command: string, args: string[]): Promise<string> {
  return new Promise((resolve) => {
    const program = join(ROOT, "node_modules", ".bin", command);
    execFile(program, args, { cwd: copy, maxBuffer: OUTPUT_MAX_BYTES }, (_error, stdout) => resolve(stdout));
  });
}

function plant(file: string, text: string): void {
  mkdirSync(dirname(join(copy, file)), { recursive: true });
  writeFileSync(join(copy, file), text);
}

describe("dependency-cruiser", () => {
  const Report = z.object({
    summary: z.object({
      totalCruised: z.number(),
      violations: z.array(z.object({ from: z.string(), rule: z.object({ name: z.string() }) })),
    }),
  });
  const plants = [
    { file: "contracts/src/planted.ts", imports: "@frazil/infra", rule: "contracts-imports-nothing" },
    { file: "infra/src/planted.ts", imports: "@frazil/control-plane", rule: "infra-imports-contracts" },
    { file: "runner/agent/src/planted.ts", imports: "@frazil/infra", rule: "agent-imports-contracts" },
    { file: "cli/src/planted.ts", imports: "@frazil/control-plane", rule: "cli-imports" },
    {
      file: "cli/src/planted-migrations.ts",
      imports: "@frazil/migrations",
      rule: "cli-uses-migrations-and-infra-in-dev-only",
    },
    { file: "migrations/src/planted.ts", imports: "@frazil/infra", rule: "migrations-imports-contracts" },
    { file: "control-plane/src/planted.ts", imports: "@frazil/cli", rule: "control-plane-imports" },
    { file: "control-plane/src/domain/planted.ts", imports: "../flow/deps.ts", rule: "domain-is-pure" },
    { file: "control-plane/src/domain/planted-fs.ts", imports: "node:fs", rule: "domain-is-pure" },
    { file: "control-plane/src/flow/planted.ts", imports: "../db/index.ts", rule: "flow-through-deps" },
    { file: "control-plane/src/db/planted.ts", imports: "../flow/deps.ts", rule: "db-knows-no-flow" },
    { file: "control-plane/src/http/planted.ts", imports: "../db/index.ts", rule: "edges-go-through-flow" },
    { file: "control-plane/src/flow/planted-prisma.ts", imports: "@prisma/client", rule: "prisma-only-in-db" },
    { file: "control-plane/src/flow/planted-queue.ts", imports: "bullmq", rule: "bullmq-only-in-queue" },
    { file: "control-plane/src/planted-missing.ts", imports: "./no-such-file.ts", rule: "not-resolvable" },
    { file: "contracts/src/planted-package.ts", imports: "pg", rule: "no-undeclared-package" },
    { file: "contracts/src/planted-test.ts", imports: "./planted-fixture.test.ts", rule: "no-test-code-in-product" },
  ];
  let violations: { from: string; rule: { name: string } }[] = [];

  beforeAll(async () => {
    plant("contracts/src/planted-fixture.test.ts", "export const fixture = 1;\n");
    for (const { file, imports } of plants)
      plant(file, `import * as planted from "${imports}";\nexport const used = planted;\n`);
    const args = ["--config", ".dependency-cruiser.cjs", "--output-type", "json", ...WORKSPACES];
    const { summary } = Report.parse(JSON.parse(await runInCopy("depcruise", args)));
    expect(summary.totalCruised).toBeGreaterThan(plants.length);
    violations = summary.violations;
  });

  it.each(plants)("refuses $imports in $file ($rule)", ({ file, rule }) => {
    expect(violations.filter(({ from }) => from === file).map((violation) => violation.rule.name)).toContain(rule);
  });

  it("has a planted case for every workspace rule", () => {
    const config = readFileSync(join(ROOT, ".dependency-cruiser.cjs"), "utf8");
    const rules = [...config.matchAll(/onlyImports\("([^"]+)"/g)].map(([, name]) => name);
    const planted = plants.map(({ rule }) => rule);
    expect(rules.filter((rule) => !planted.includes(rule ?? ""))).toEqual([]);
  });
});

describe("biome", () => {
  const Report = z.object({ diagnostics: z.array(z.object({ category: z.string() })) });

  async function lint(text: string): Promise<string[]> {
    plant("contracts/src/promised.ts", "export async function save(): Promise<number> {\n  return 1;\n}\n");
    plant("contracts/src/calling.ts", text);
    const output = await runInCopy("biome", ["lint", "--reporter=json", "contracts/src/calling.ts"]);
    return Report.parse(JSON.parse(output)).diagnostics.map(({ category }) => category);
  }

  it("refuses a promise of another file that nobody waits for", async () => {
    const found = await lint('import { save } from "./promised.ts";\n\nexport function run(): void {\n  save();\n}\n');
    expect(found).toContain("lint/nursery/noFloatingPromises");
  });

  it("accepts the same promise when it is awaited", async () => {
    const found = await lint(
      'import { save } from "./promised.ts";\n\nexport async function run(): Promise<void> {\n  await save();\n}\n',
    );
    expect(found).toEqual([]);
  });
});
