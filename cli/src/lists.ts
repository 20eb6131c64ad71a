import type { Command } from "commander";
import type { Page } from "./api.ts";
import { usageError } from "./cli-error.ts";
import { wholeNumber } from "./option-values.ts";
import type { Session } from "./session.ts";

const LIMIT_DEFAULT = 20;
/** More than this in one list is no list to look at; the cursor goes on from there. */
const ITEMS_MAX = 100_000;
/** The server's own limit for a page. */
const PAGE_ITEMS_MAX = 1_000;

export interface ListOptions {
  readonly limit?: number;
  readonly all?: boolean;
  readonly cursor?: string;
}

export function addListOptions(command: Command): Command {
  return command
    .optionsGroup("Paging:")
    .option("--limit <n>", `how many to show (default: ${LIMIT_DEFAULT})`, wholeNumber(1, ITEMS_MAX))
    .option("--all", "show all")
    .option("--cursor <cursor>", "go on after this one: the nextCursor of the list before");
}

/** Reads as many pages as the options ask for. `nextCursor` says that there is more. */
export async function readList<T>(
  options: ListOptions,
  load: (page: { limit: number; cursor: string | undefined }) => Promise<Page<T>>,
): Promise<Page<T>> {
  if (options.all && options.limit !== undefined) throw usageError("--all and --limit exclude each other");
  const wanted = options.all ? ITEMS_MAX : (options.limit ?? LIMIT_DEFAULT);
  const items: T[] = [];
  let cursor = options.cursor;
  while (true) {
    const page = await load({ limit: Math.min(wanted - items.length, PAGE_ITEMS_MAX), cursor });
    items.push(...page.items);
    const stuck = page.nextCursor === cursor || page.items.length === 0;
    if (page.nextCursor === null || stuck) return { items, nextCursor: null };
    cursor = page.nextCursor;
    if (items.length >= wanted) return { items, nextCursor: cursor };
  }
}

/** Says how to see more, where there is more. */
export function showCursor(session: Session, list: Page<unknown>): void {
  if (list.nextCursor !== null)
    session.note(session.paintError("dim", `there may be more: --cursor ${list.nextCursor}, or --all`));
}
