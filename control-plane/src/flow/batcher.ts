/** How many items one flush takes. */
const BATCH_MAX = 500;

/**
 * Group commit: while one flush is under way, further items wait and go together in the next. An idle batcher flushes at once, so that a single item
 * waits for nobody. `flush` answers for each item, in order.
 */
export function makeBatcher<Item, Answer>(
  flush: (items: Item[]) => Promise<Answer[]>,
): (item: Item) => Promise<Answer> {
  interface Waiting {
    readonly item: Item;
    readonly resolve: (answer: Answer) => void;
    readonly reject: (error: unknown) => void;
  }
  let waiting: Waiting[] = [];
  let flushing = false;

  const run = async () => {
    flushing = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, BATCH_MAX);
      waiting = waiting.slice(BATCH_MAX);
      try {
        const answers = await flush(batch.map((one) => one.item));
        for (const [index, one] of batch.entries()) one.resolve(answers[index] as Answer);
      } catch (error) {
        for (const one of batch) one.reject(error);
      }
    }
    flushing = false;
  };
  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (!flushing) void run();
    });
}
