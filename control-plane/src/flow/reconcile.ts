import type { Deps } from "./deps.ts";
import { runStep, STEPS, type Step, type StepName } from "./steps.ts";

/** Rows of one step that are worked on at the same moment: a thousand clusters are looked at within seconds, and one slow cloud holds up no other. */
const AT_ONCE = 8;

/** Asks every step, at its own pace, what is due, and runs it. This alone finishes every job: the queue only makes it sooner. */
export function startReconciler(deps: Deps): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const loops = (Object.keys(STEPS) as StepName[]).map((name) => loop(deps, name, stopping.signal));
  return {
    async stop() {
      stopping.abort();
      await Promise.all(loops);
    },
  };
}

async function loop(deps: Deps, name: StepName, signal: AbortSignal): Promise<void> {
  const step: Step = STEPS[name];
  while (!signal.aborted) {
    try {
      await runAll(deps, name, await step.find(deps), signal);
    } catch (error) {
      deps.log.error({ err: error, step: name }, "could not look for due rows");
    }
    await pause(step.everyMs, signal);
  }
}

async function runAll(deps: Deps, name: StepName, ids: readonly string[], signal: AbortSignal): Promise<void> {
  const waiting = [...ids];
  const work = async () => {
    for (let id = waiting.shift(); id !== undefined && !signal.aborted; id = waiting.shift())
      await runStep(deps, name, id).catch((error) => deps.log.error({ err: error, step: name, id }, "step failed"));
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, waiting.length) }, work));
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
