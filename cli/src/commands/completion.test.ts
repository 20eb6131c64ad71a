import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { COMMANDS } from "./registry.ts";

const folder = mkdtempSync(join(tmpdir(), "frazil-completion-"));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, "query.sql"), "");

async function scriptFor(shell: string): Promise<string> {
  const io = fakeIo();
  expect(await runCli(io, ["completion", shell])).toBe(0);
  writeFileSync(join(folder, shell), io.out());
  return io.out();
}
const has = (program: string) =>
  (process.env.PATH ?? "").split(delimiter).some((path) => existsSync(join(path, program)));

/** What bash would offer after these words; the last one is being typed. */
function completeInBash(words: string[]): string[] {
  const line = words.map((word) => `'${word}'`).join(" ");
  const code = `source ./bash; COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _frazil_pc; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync("bash", ["--norc", "-c", code], { cwd: folder }).toString().trim().split("\n");
}

describe.skipIf(!has("bash"))("completion for bash", () => {
  it("offers commands, subcommands, options, values and files, each where it belongs", async () => {
    await scriptFor("bash");
    expect(completeInBash(["pc", ""])).toEqual(
      expect.arrayContaining([...COMMANDS.map(({ name }) => name), "--version"]),
    );
    expect(completeInBash(["pc", "jo"])).toEqual(["jobs", "job"]);
    expect(completeInBash(["pc", "clusters", "st"])).toEqual(["start", "stop"]);
    expect(completeInBash(["pc", "clusters", "start", "--cp"])).toEqual(["--cpus"]);
    expect(completeInBash(["pc", "jobs", "--status", "c"])).toEqual(["cancelled"]);
    expect(completeInBash(["pc", "job", "x", "--status", "p"])).toEqual(["publishing"]);
    expect(completeInBash(["pc", "submit", "--json", "--form"])).toEqual(["--format"]);
    expect(completeInBash(["pc", "submit", "que"])).toEqual(["query.sql"]);
    expect(completeInBash(["pc", "submit", "--dst", "que"])).toEqual(["query.sql"]);
    expect(completeInBash(["pc", "completion", ""])).toEqual(expect.arrayContaining(["bash", "zsh", "fish"]));
  });
});

describe.each(["zsh", "fish"])("completion for %s", (shell) => {
  it("names every command and its options", async () => {
    const script = await scriptFor(shell);
    for (const { name } of COMMANDS) expect(script).toContain(name);
    for (const option of ["partition-by", "wait-timeout", "cluster-size"]) expect(script).toContain(option);
  });

  it.skipIf(!has(shell))(
    `is right to the shell${has(shell) ? "" : ` (skipped: there is no ${shell} here)`}`,
    async () => {
      await scriptFor(shell);
      execFileSync(shell, ["-n", join(folder, shell)]);
    },
  );
});

it("another shell is refused", async () => {
  expect(await runCli(fakeIo(), ["completion", "tcsh"])).toBe(2);
});
