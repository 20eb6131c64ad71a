import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = fileURLToPath(new URL("../../../.venv/bin/python", import.meta.url));

/** A Python with Polars in it: the repository's environment. */
export const PYTHON = path;
/** Why tests that need it are skipped; false when they run. */
export const noPython: string | false = existsSync(path) ? false : `${path} is not there; \`npm run setup\` makes it`;
