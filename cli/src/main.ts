#!/usr/bin/env node
import { refuseOldNode } from "./node-release.ts";

// Before anything else is loaded: an older Node fails at what it does not have, in words that help nobody.
const refusal = refuseOldNode(process.versions.node);
if (refusal === undefined) {
  const { start } = await import("./start.ts");
  process.exitCode = await start();
} else {
  const problem = JSON.stringify(refusal.toProblem());
  process.stderr.write(process.argv.includes("--json") ? `${problem}\n` : `error: ${refusal.message}\n`);
  process.exitCode = refusal.exitCode;
}
