import releases from "./generated/polars-releases.json" with { type: "json" };

/** `DSL_VERSION`, two little-endian u16, 64 hex characters of schema hash: written by `LazyFrame.serialize()` of every release we run. */
const MAGIC = "DSL_VERSION";
const HEADER_BYTES = MAGIC.length + 4 + 64;

export interface PlanHeader {
  readonly dslVersion: string;
  readonly schemaHash: string;
}
export interface PolarsRelease {
  readonly version: string;
  readonly schemaHash: string;
}

export const POLARS_RELEASES: readonly PolarsRelease[] = releases;
export const NEWEST_POLARS: string = (releases.at(-1) as PolarsRelease).version;

/** Reads the header of plan bytes, without looking at the plan. Undefined when this is not a plan. */
export function readPlanHeader(bytes: Uint8Array): PlanHeader | undefined {
  if (bytes.length <= HEADER_BYTES) return undefined;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  if (text.toString("latin1", 0, MAGIC.length) !== MAGIC) return undefined;
  const schemaHash = text.toString("latin1", MAGIC.length + 4);
  if (!/^[0-9a-f]{64}$/.test(schemaHash)) return undefined;
  return { dslVersion: `${text.readUInt16LE(MAGIC.length)}.${text.readUInt16LE(MAGIC.length + 2)}`, schemaHash };
}

/** The releases that can open a plan with this schema hash, oldest first. */
export function releasesOfHash(schemaHash: string): string[] {
  return POLARS_RELEASES.filter((release) => release.schemaHash === schemaHash).map((release) => release.version);
}
