import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** One hash over the names and contents of files; a file that does not exist counts too, so that its appearance changes the hash. */
export function hashFiles(files) {
  const hash = createHash("sha256");
  for (const file of files) {
    hash.update(`${file}\0`);
    hash.update(existsSync(file) ? readFileSync(file) : "absent");
    hash.update("\0");
  }
  return hash.digest("hex");
}

export function isStamped(stampFile, value) {
  return existsSync(stampFile) && readFileSync(stampFile, "utf8") === value;
}

export function writeStamp(stampFile, value) {
  mkdirSync(dirname(stampFile), { recursive: true });
  writeFileSync(stampFile, value);
}
