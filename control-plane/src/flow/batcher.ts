/** How many items one flush takes. */
const BATCH_MAX = 500;
/** When so many of a failed batch, the first ones, fail alone too, it is not their own fault: the rest fails with them. */
const ALONE_FAILURES_MAX = 3;
/** After a flush of this many items more are about to come: the next one waits a little for them, because each costs the database the same few statements. */
const CROWD = 8;
const GATHER_MS = 16;

/**
 * Group commit: while one flush is under way, further items wait and go together in the next. An idle batcher flushes at once, so that a single item
 * waits for nobody; in a crowd they wait some milliseconds for each other. `flush` answers for each item, in order; it does all or nothing. Items whose flush failed are flushed again one by one, so that
 * one that always fails harms no other.
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

  const settle = async (batch: readonly Waiting[]) => {
    const answers = await flush(batch.map((one) => one.item));
    for (const [index, one] of batch.entries()) one.resolve(answers[index] as Answer);
  };
  const settleOneByOne = async (batch: readonly Waiting[]) => {
    let failures = 0;
    for (const [at, one] of batch.entries()) {
      try {
        await settle([one]);
      } catch (error) {
        one.reject(error);
        failures += 1;
        if (failures < ALONE_FAILURES_MAX || failures <= at) continue;
        for (const other of batch.slice(at + 1)) other.reject(error);
        return;
      }
    }
  };
  const run = async () => {
    flushing = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, BATCH_MAX);
      waiting = waiting.slice(BATCH_MAX);
      try {
        await settle(batch);
      } catch (error) {
        if (batch.length === 1) batch[0]?.reject(error);
        else await settleOneByOne(batch);
      }
      if (batch.length >= CROWD && waiting.length < BATCH_MAX) await new Promise((done) => setTimeout(done, GATHER_MS));
    }
    flushing = false;
  };
  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (!flushing) void run();
    });
}
