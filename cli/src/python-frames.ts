import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import type { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { CliError, usageError } from "./cli-error.ts";
import { EXIT } from "./exit-codes.ts";
import type { Io } from "./io.ts";

export interface PythonRequest {
  /** Absolute path of the user's file; null when only keys are wanted. */
  readonly script: string | null;
  readonly name: string | null;
  readonly many: boolean;
  readonly keys: readonly { readonly name: string; readonly expr: string }[];
}
export interface NamedBytes {
  readonly name: string;
  readonly bytes: Buffer;
}
/** What the user's Python made, and the versions that made it. */
export interface PythonAnswer {
  readonly polars: string;
  readonly python: string;
  readonly frames: readonly NamedBytes[];
  readonly keys: readonly NamedBytes[];
}

interface Header {
  readonly polars: string;
  readonly python: string;
  readonly frames: readonly { name: string; bytes: number }[];
  readonly keys: readonly { name: string; bytes: number }[];
  readonly error?: { readonly kind: "refused" | "user_code"; readonly detail: string; readonly hint: string | null };
}

export function pythonCommand(io: Pick<Io, "env">, given: string | undefined): string {
  return given ?? (io.env.FRAZIL_PYTHON || "python3");
}

/** Runs the user's Python file in the user's own environment. Its prints go to stderr. */
export async function loadFrames(
  io: Pick<Io, "env" | "cwd" | "stderr">,
  python: string,
  request: PythonRequest,
): Promise<PythonAnswer> {
  const child = spawn(python, [helperPath(), JSON.stringify(request)], {
    cwd: io.cwd,
    env: io.env,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (text) => io.stderr.write(String(text)));
  const ended = new Promise<string>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) => reject(startError(python, error)));
    child.once("close", (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  const [answer, end] = await Promise.all([buffer(child.stdio[3] as Readable), ended]);
  return parseAnswer(answer, request.script, end);
}

/** The file beside the sources, or beside a bundle. */
function helperPath(): string {
  const places = ["../python/load_frames.py", "./load_frames.py"];
  const paths = places.map((place) => fileURLToPath(new URL(place, import.meta.url)));
  const found = paths.find((path) => existsSync(path));
  if (found === undefined) {
    throw new CliError(
      "incomplete_installation",
      EXIT.bug,
      `load_frames.py is missing; looked for ${paths.join(", ")}`,
    );
  }
  return found;
}

function parseAnswer(answer: Buffer, script: string | null, end: string): PythonAnswer {
  const lineEnd = answer.indexOf(0x0a);
  if (lineEnd < 0) throw usageError(`Python ended (${end}) before it had read ${script ?? "the expressions"}`);
  const header = JSON.parse(answer.toString("utf8", 0, lineEnd)) as Header;
  if (header.error !== undefined) throw usageError(header.error.detail, header.error.hint ?? undefined);
  let offset = lineEnd + 1;
  const take = (listed: Header["frames"]) =>
    listed.map(({ name, bytes }) => {
      offset += bytes;
      return { name, bytes: answer.subarray(offset - bytes, offset) };
    });
  const { polars, python } = header;
  return { polars, python, frames: take(header.frames), keys: take(header.keys) };
}

function startError(python: string, error: NodeJS.ErrnoException): CliError {
  const reason = error.code === "ENOENT" ? "there is no such program" : error.message;
  return usageError(
    `${python} could not be started: ${reason}`,
    "name the Python of your project with --python or FRAZIL_PYTHON",
  );
}
