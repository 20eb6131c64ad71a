import { CliError } from "./cli-error.ts";
import { EXIT } from "./exit-codes.ts";

/** The first minor releases with zstd, which the first rows of results are compressed with. All later major ones have it. */
const MINORS_MIN: Readonly<Record<number, number>> = { 22: 15, 23: 8 };
const LATER_MAJORS_MIN = 24;
const NODE_MIN = "22.15";

/** What there is to say of a Node that is too old for this program. */
export function refuseOldNode(release: string): CliError | undefined {
  const [major = 0, minor = 0] = release.split(".").map(Number);
  if (major >= LATER_MAJORS_MIN || minor >= (MINORS_MIN[major] ?? Number.POSITIVE_INFINITY)) return undefined;
  return new CliError("node_too_old", EXIT.usage, `pc needs Node ${NODE_MIN} or newer, and this is Node ${release}`);
}
