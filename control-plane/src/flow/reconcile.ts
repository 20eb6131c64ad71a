import type { Deps } from "./deps.ts";
import { runStep, STEPS, type Step, type StepName } from "./steps.ts";

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
      for (const id of await step.find(deps)) {
        if (signal.aborted) return;
        await runStep(deps, name, id).catch((error) => deps.log.error({ err: error, step: name, id }, "step failed"));
      }
    } catch (error) {
      deps.log.error({ err: error, step: name }, "could not look for due rows");
    }
    await pause(step.everyMs, signal);
  }
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
