import { POLARS_RELEASES } from "@frazil/contracts";

/** Bytes with the header of a release's plans and a body of the test's choice. */
export function planOf(polars: string, body: string | Buffer = "body"): Buffer {
  const release = POLARS_RELEASES.find(({ version }) => version === polars);
  if (release === undefined) throw new Error(`the table has no Polars ${polars}`);
  return planWithHash(release.schemaHash, body);
}

export function planWithHash(schemaHash: string, body: string | Buffer = "body"): Buffer {
  const version = Buffer.from([24, 0, 0, 0]);
  return Buffer.concat([Buffer.from("DSL_VERSION"), version, Buffer.from(schemaHash), Buffer.from(body)]);
}

/** What Polars writes around a pickle that cloudpickle made under the given Python minor. */
export function pickleOf(minor: number): Buffer {
  return Buffer.concat([Buffer.from("PLPYFN"), Buffer.from([1, minor, 7, 0x80, 5, 0x95]), Buffer.from("...")]);
}
