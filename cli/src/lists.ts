import type { Command } from "commander";
import type { Page } from "./api.ts";
import { usageError } from "./cli-error.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { wholeNumber } from "./option-values.ts";
import type { Session } from "./session.ts";

const LIMIT_DEFAULT = 20;
/** A number above this is no number to look at; who wants more wants --all. */
const LIMIT_MAX = 100_000;
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
    .option("--limit <n>", `how many to show (default: ${LIMIT_DEFAULT})`, wholeNumber(1, LIMIT_MAX))
    .option("--all", "show all")
    .option("--cursor <cursor>", "go on after this one: the nextCursor of the list before");
}

interface ListView<T> {
  /** What --quiet prints of an item, a line each. */
  readonly lines: (item: T) => readonly string[];
  readonly show: (items: readonly T[]) => void;
}
type LoadPage<T> = (page: { limit: number; cursor: string | undefined }) => Promise<Page<T>>;

/** Shows as much of a list as the options ask for, and says how to see more where there is more. */
export async function showList<T>(
  session: Session,
  options: ListOptions,
  load: LoadPage<T>,
  view: ListView<T>,
): Promise<ExitCode> {
  if (options.all && options.limit !== undefined) throw usageError("--all and --limit exclude each other");
  const items: T[] = [];
  let nextCursor: string | null = null;
  for await (const page of readPages(options, load)) {
    nextCursor = page.nextCursor;
    // Lines need not wait for each other: a list of any length is never held as a whole.
    if (session.quiet && !session.json)
      for (const item of page.items) for (const line of view.lines(item)) session.print(line);
    else items.push(...page.items);
  }
  if (session.json) session.printJson({ items, nextCursor });
  else if (!session.quiet) view.show(items);
  if (nextCursor !== null)
    session.note(session.paintError("dim", `there may be more: --cursor ${nextCursor}, or --all`));
  return EXIT.ok;
}

/** The `nextCursor` of the last page says that there is more. */
async function* readPages<T>({ all, limit, cursor: first }: ListOptions, load: LoadPage<T>): AsyncGenerator<Page<T>> {
  let left = all ? Number.POSITIVE_INFINITY : (limit ?? LIMIT_DEFAULT);
  let cursor = first;
  while (true) {
    const page = await load({ limit: Math.min(left, PAGE_ITEMS_MAX), cursor });
    // A cursor that does not move would never end.
    const isLast = page.nextCursor === null || page.nextCursor === cursor || page.items.length === 0;
    yield isLast ? { items: page.items, nextCursor: null } : page;
    left -= page.items.length;
    if (isLast || left <= 0) return;
    cursor = page.nextCursor ?? undefined;
  }
}
