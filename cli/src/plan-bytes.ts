import { PLAN_BYTES_MAX, readPlanHeader, releasesOfHash } from "@frazil/contracts";
import { usageError } from "./cli-error.ts";
import { formatBytes } from "./format.ts";

/** What a plan or an expression needs of the engine that opens it. */
export interface Origin {
  /** Where it comes from, to say in errors. */
  readonly name: string;
  /** Polars releases that can open it, oldest first; null for SQL text, which any can. */
  readonly releases: readonly string[] | null;
  readonly hasPython: boolean;
  /** Python minor that wrote it; null when it does not say. */
  readonly python: string | null;
}

/**
 * Pickled Python in a plan: behind Polars' own magic, or a bare pickle (protocol 4 and up begins PROTO, version, FRAME), as bytes or as a msgpack
 * list of numbers, in which those of 0x80 and above are preceded by 0xcc. Data that looks like one is taken for one: that only pins the Python minor.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: this is binary data
const PICKLED = /PLPYFN|PLPYUDF|cloudpickle|\x80[\x04\x05]\x95|\xcc\x80[\x04\x05]\xcc\x95/;
/** Polars writes whether it used cloudpickle, the Python minor and the patch level in front of each pickle. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: this is binary data
const PICKLED_BY = /[\x00\x01]([\x06-\x30])[\x00-\x40](?:\x80[\x04\x05]\x95|\xcc\x80[\x04\x05]\xcc\x95)/;

export function isPlan(bytes: Uint8Array): boolean {
  return readPlanHeader(bytes) !== undefined;
}

/** Reads the releases and Python of plan bytes. */
export function readOrigin(bytes: Uint8Array, name: string): Origin {
  if (bytes.length > PLAN_BYTES_MAX) {
    throw usageError(
      `${name} has ${formatBytes(bytes.length)}, and a plan may have ${formatBytes(PLAN_BYTES_MAX)}`,
      "it carries an in-memory frame: write that to storage and scan it from there",
    );
  }
  const header = readPlanHeader(bytes);
  if (header === undefined) {
    throw usageError(`${name} is not a Polars plan`, "save one with `open(path, 'wb').write(lf.serialize())`");
  }
  return { name, releases: releasesOfHash(header.schemaHash), ...readPython(bytes) };
}

/** Whether bytes of a plan or an expression hold pickled Python, and of which minor. */
export function readPython(bytes: Uint8Array): Pick<Origin, "hasPython" | "python"> {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  if (!PICKLED.test(text)) return { hasPython: false, python: null };
  const minor = PICKLED_BY.exec(text)?.[1];
  return { hasPython: true, python: minor === undefined ? null : `3.${minor.charCodeAt(0)}` };
}

export function sqlOrigin(name: string): Origin {
  return { name, releases: null, hasPython: false, python: null };
}
