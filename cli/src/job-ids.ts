import type { Api } from "./api.ts";
import { usageError } from "./cli-error.ts";

/** The id meant by a word of the command line: an id as it is, or `-` for the newest job of the token's user. */
export async function resolveJobId(api: Api, word: string): Promise<string> {
  if (word !== "-") return checkId(word, "job");
  const { user } = await api.me();
  const { items } = await api.jobs({ user, limit: 1 });
  const [newest] = items;
  if (newest === undefined) throw usageError(`"-" means your newest job, and ${user} has none`);
  return newest.id;
}

/** A word that can't be an id is refused here, with what an id looks like. */
export function checkId(word: string, kind: "job" | "cl"): string {
  if (/^[a-z]+_[0-9a-z]{26}$/.test(word) && word.startsWith(`${kind}_`)) return word;
  throw usageError(
    `"${word}" is not the id of a ${kind === "job" ? "job" : "cluster"}`,
    `ids look like ${kind}_01k...; \`pc ${kind === "job" ? "jobs" : "clusters"}\` lists them`,
  );
}
