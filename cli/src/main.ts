#!/usr/bin/env node
import { basename } from "node:path";
import { processIo } from "./io.ts";
import { runCli } from "./program.ts";

// A reader that has seen enough (`pc jobs | head`) closes its end: that is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});

const called = basename(process.argv[1] ?? "");
process.exitCode = await runCli(processIo(), process.argv.slice(2), called === "frazil" ? "frazil" : "pc");
