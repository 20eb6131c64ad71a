import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";
import { BASELINE_REQUIREMENTS, ROOT } from "./paths.ts";

const GIB = 1024 ** 3;
const BASELINES = ["polars", "ray", "distributed"];

/** What the figures depend on. */
export function describeMachine(): Record<string, string | number> {
  const cores = cpus();
  const pins = readFileSync(BASELINE_REQUIREMENTS, "utf8");
  const pinned = BASELINES.map(
    (name) => [name, new RegExp(`^${name}==(\\S+)`, "m").exec(pins)?.[1] ?? "none"] as const,
  );
  return {
    processor: cores[0]?.model.trim() ?? "unknown",
    cores: cores.length,
    "memory in GiB": Math.round(totalmem() / GIB),
    Linux: release(),
    Node: process.versions.node,
    ...Object.fromEntries(pinned),
    bullmq: packageVersion("bullmq"),
  };
}

function packageVersion(name: string): string {
  return JSON.parse(readFileSync(join(ROOT, "node_modules", name, "package.json"), "utf8")).version;
}
