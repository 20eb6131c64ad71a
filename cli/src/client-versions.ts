import { type ClientVersions, NEWEST_POLARS, POLARS_RELEASES } from "@frazil/contracts";
import { usageError } from "./cli-error.ts";
import type { Origin } from "./plan-bytes.ts";

/** Said for queries without Python in them, which run on any minor: the one that engines have at least. */
const PYTHON_WHEN_UNUSED = "3.11";

interface Overrides {
  readonly polars?: string | undefined;
  readonly pythonVersion?: string | undefined;
}

/** The versions that all of a job's plans and keys agree on. SQL alone runs on the newest known release. */
export function agreeOnVersions(origins: readonly Origin[], overrides: Overrides, cwd: string): ClientVersions {
  const hasPython = origins.some((origin) => origin.hasPython);
  return {
    polars: agreeOnPolars(origins, overrides.polars),
    python: agreeOnPython(origins, overrides.pythonVersion),
    hasPython,
    cwd,
  };
}

function agreeOnPolars(origins: readonly Origin[], override: string | undefined): string {
  if (override !== undefined) return override;
  const bound = origins.flatMap(({ name, releases }) => (releases === null ? [] : [{ name, releases }]));
  const unknown = bound.find(({ releases }) => releases.length === 0);
  if (unknown !== undefined) {
    throw usageError(
      `${unknown.name} was written by a Polars release that is not known here`,
      `known are ${POLARS_RELEASES.map(({ version }) => version).join(", ")}; for a newer server, name the release with --polars`,
    );
  }
  const [first, ...rest] = bound;
  if (first === undefined) return NEWEST_POLARS;
  let common = [...first.releases];
  for (const { name, releases } of rest) {
    common = common.filter((release) => releases.includes(release));
    if (common.length > 0) continue;
    throw usageError(
      `${first.name} was written by Polars ${first.releases.join(" or ")}, and ${name} by ${releases.join(" or ")}`,
      "one job runs on one release: send them as two jobs, or write them with the same Polars",
    );
  }
  return common.at(-1) as string;
}

function agreeOnPython(origins: readonly Origin[], override: string | undefined): string {
  if (override !== undefined) return override;
  const [first, ...rest] = origins.filter((origin) => origin.hasPython);
  if (first === undefined) return origins.find((origin) => origin.python !== null)?.python ?? PYTHON_WHEN_UNUSED;
  const other = rest.find(({ python }) => python !== first.python);
  if (other !== undefined) {
    throw usageError(
      `${first.name} holds functions of Python ${first.python}, and ${other.name} of ${other.python}`,
      "send them as two jobs",
    );
  }
  if (first.python === null) {
    throw usageError(
      `${first.name} holds Python functions, and does not say of which Python`,
      "name it, such as --python-version 3.11",
    );
  }
  return first.python;
}
