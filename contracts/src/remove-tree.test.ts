import { execFile } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, it } from "vitest";

const MODULE = fileURLToPath(new URL("./remove-tree.ts", import.meta.url));
/** Of root nothing is kept away. */
const NOBODY = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "frazil-remove-"));
  chmodSync(folder, 0o777);
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** In a process that may not do everything. */
const removeAsUser = (path: string) =>
  promisify(execFile)(
    process.execPath,
    [
      "--input-type=module",
      "-e",
      `const { removeTree } = await import(${JSON.stringify(MODULE)}); await removeTree(process.argv[1]);`,
      path,
    ],
    { ...NOBODY, cwd: "/" },
  );

it("removes what denies writing, and nothing that a link leads to", async () => {
  const kept = join(folder, "kept");
  const tree = join(folder, "tree");
  const inner = join(tree, "read-only", "inner");
  mkdirSync(kept);
  mkdirSync(inner, { recursive: true });
  writeFileSync(join(kept, "file"), "");
  writeFileSync(join(inner, "file"), "");
  symlinkSync(kept, join(inner, "link"));
  const { uid, gid } = NOBODY;
  if (uid !== undefined) for (const path of [tree, join(tree, "read-only"), inner]) chownSync(path, uid, gid ?? uid);
  for (const path of [inner, join(tree, "read-only")]) chmodSync(path, 0o555);
  await removeAsUser(tree);
  expect([existsSync(tree), existsSync(join(kept, "file"))]).toEqual([false, true]);
});

it("is content with what is not there", async () => {
  await removeAsUser(join(folder, "none"));
  expect(existsSync(join(folder, "none"))).toBe(false);
});
