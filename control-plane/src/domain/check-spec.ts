import { type JobSpec, POLARS_RELEASES, Problem, readPlanHeader, releasesOfHash } from "@frazil/contracts";

const SCHEMES = ["s3://", "s3a://", "gs://", "gcs://", "abfss://", "abfs://", "az://", "azure://", "adl://", "file://"];

/** Arguments of Polars' sinks that carry secrets. */
const CREDENTIAL_OPTIONS = ["storage_options", "credential_provider"];

/** Refuses what this installation does not offer, by name, before anything is stored. */
export function checkSpec(spec: JobSpec): void {
  if (spec.scaling === "distributed") {
    throw new Problem(
      "not_available",
      "Distributed queries are not offered by this installation yet; leave out .distributed(), or use partition_by or spawn_many.",
    );
  }
  const unfindable = Object.keys(spec.labels).find((name) => name.includes(":"));
  if (unfindable !== undefined) {
    throw new Problem(
      "invalid_request",
      `The label name "${unfindable}" has a colon in it. Jobs are looked for by name:value, so that none would find it.`,
    );
  }
  const credentials = CREDENTIAL_OPTIONS.find((name) => name in spec.output.options);
  if (credentials !== undefined) {
    throw new Problem(
      "invalid_request",
      `The output's options are shown to everyone in the workspace; give ${credentials} as storageOptions, which are kept encrypted.`,
    );
  }
  const { destination } = spec.output;
  if (destination === null) return;
  if (destination.includes("\u0000")) throw new Problem("invalid_request", "The destination holds a NUL character.");
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(destination)?.[0].toLowerCase();
  if (scheme !== undefined && !SCHEMES.includes(scheme)) {
    throw new Problem(
      "unprocessable",
      `Results can't be written to ${scheme}...; use a path or one of ${SCHEMES.join(", ")}.`,
    );
  }
}

/** Checks a plan's header against the releases that can open it. The plan itself is opened by an engine only. */
export function checkPlanBytes(bytes: Uint8Array, spec: JobSpec): void {
  const header = readPlanHeader(bytes);
  if (header === undefined) {
    throw new Problem(
      "invalid_plan",
      "The plan does not begin with Polars' plan header; send the bytes of LazyFrame.serialize().",
    );
  }
  const releases = releasesOfHash(header.schemaHash);
  if (releases.length === 0)
    throw new Problem(
      "unsupported_polars",
      `No engine opens this plan (schema hash ${header.schemaHash.slice(0, 12)}…). ${supported()}`,
    );
  if (!releases.includes(spec.client.polars)) {
    throw new Problem(
      "unsupported_polars",
      `The plan was written by Polars ${releases.join(" or ")}, but the client says ${spec.client.polars}. Send the release that wrote it.`,
    );
  }
}

/** SQL text has no header: the release is what the client says. */
export function checkRelease(spec: JobSpec): void {
  if (POLARS_RELEASES.some((release) => release.version === spec.client.polars)) return;
  throw new Problem("unsupported_polars", `No engine runs Polars ${spec.client.polars}. ${supported()}`);
}

function supported(): string {
  return `Supported releases: ${POLARS_RELEASES.map((release) => release.version).join(", ")}.`;
}
