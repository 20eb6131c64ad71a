import type {
  AttemptRef,
  FromEngine,
  FromNode,
  Manifest,
  NodeUsage,
  Outcome,
  Run,
  RunTemplate,
  TaskRef,
  TaskTimes,
  ToEngine,
} from "@frazil/contracts";
import type { EngineOrder } from "./engine-choice.ts";
import type { EngineEnd } from "./engine-process.ts";
import type { Engine, Engines } from "./engines.ts";
import type { Environments } from "./environments.ts";
import type { Logs } from "./logs.ts";
import type { Outbox } from "./outbox.ts";
import { outcomeOfEnd, outcomeOfFailedStart, type Stop } from "./outcomes.ts";
import type { Plans } from "./plans.ts";
import type { Progress } from "./progress.ts";
import type { Supervisor, Watch } from "./supervisor.ts";

/** Once its time is over, a run that only waits for its publishing has this much longer. */
const PUBLISHING_WITHIN_MS = 600_000;
/** How long an engine may take from its last answer until it is idle. */
const IDLE_WITHIN_MS = 30_000;
/** How often it is told which of many queries has begun. */
const TELL_STARTED_MS = 250;
/** How long an engine may take to remove what an abandoned or cancelled task had staged. */
const ABANDON_WITHIN_MS = 5_000;
const NO_BODY = Buffer.alloc(0);

export interface TaskState {
  readonly ref: TaskRef;
  /** `answered`: its outcome is decided, and nothing more of it is listened to. */
  status: "open" | "staged" | "publishing" | "answered";
  /** The engine has done with it, whether or not anyone still listened. */
  heard: boolean;
  /** Output of the engine may still be this task's. */
  logOpen: boolean;
}

/** What one engine is given at once, as this node carries it out. */
export interface ActiveRun {
  readonly template: RunTemplate;
  /** As it was leased: one run, or several short queries of one job, which are run one behind the other. */
  readonly leased: readonly [Run, ...Run[]];
  readonly slots: number;
  readonly shareBytes: number;
  readonly tasks: ReadonlyMap<string, TaskState>;
  /** Set when its environment is made. */
  order: EngineOrder | undefined;
  ready: boolean;
  engine: Engine | undefined;
  openedPython: boolean;
  /** Why this agent ended the engine. */
  stopped: Stop | undefined;
}

export interface RunDeps {
  readonly engines: Engines;
  readonly supervisor: Supervisor;
  readonly plans: Plans;
  readonly outbox: Outbox;
  readonly logs: Logs;
  readonly progress: Progress;
  readonly times: TaskTimes;
  readonly environments: Pick<Environments, "forget">;
  /** The attempt has its outcome in the outbox, or is no longer this node's. */
  dropAttempt(ref: AttemptRef): void;
}

/**
 * Takes the run from a free slot to an answer for each of its tasks, but for those it returns: queries whose turn had not come when their engine ended
 * with another one. Never throws.
 */
export async function carryOut(deps: RunDeps, run: ActiveRun): Promise<readonly TaskState[]> {
  let again: readonly TaskState[] = [];
  try {
    const plans = await plansOf(deps, run);
    if (isCalledOff(run)) return again;
    const engine = await deps.engines.take(run.order as EngineOrder);
    if (isCalledOff(run)) {
      deps.engines.giveBack(engine, run.shareBytes);
      return again;
    }
    run.engine = engine;
    again = await converse(deps, run, engine, plans);
  } catch (error) {
    // Whatever is wrong with it, the next run looks for itself.
    if (run.order !== undefined) deps.environments.forget(run.order.environmentKey);
    if (!isCalledOff(run)) answerOpenTasks(deps, run, outcomeOfFailedStart(error));
  } finally {
    run.engine = undefined;
    for (const task of openTasks(run)) if (!again.includes(task)) answer(deps, run, task, { kind: "released" }, null);
  }
  return again;
}

type PlansByTask = ReadonlyMap<string, Buffer>;

/** By the first task of each leased run. */
async function plansOf(deps: Pick<RunDeps, "plans">, run: ActiveRun): Promise<PlansByTask> {
  const plans = new Map<string, Buffer>();
  for (const leased of run.leased) {
    const bytes = leased.publish === null ? deps.plans.bytesOf(leased) : NO_BODY;
    plans.set(firstTaskOf(leased), bytes instanceof Promise ? await bytes : bytes);
  }
  return plans;
}

function firstTaskOf(leased: Run): string {
  return (leased.tasks[0] as TaskRef).taskId;
}

/** The same outcome for every task of the run that has none. */
export function answerOpenTasks(deps: AnswerDeps, run: ActiveRun, outcome: Outcome): void {
  for (const task of openTasks(run)) answer(deps, run, task, outcome, null);
}

type AnswerDeps = Pick<RunDeps, "logs" | "outbox" | "progress" | "dropAttempt">;

function isCalledOff(run: ActiveRun): boolean {
  return run.stopped !== undefined || !hasWork(run);
}

export function openTasks(run: ActiveRun): TaskState[] {
  return [...run.tasks.values()].filter((task) => task.status !== "answered");
}

function hasWork(run: ActiveRun): boolean {
  for (const task of run.tasks.values()) if (task.status !== "answered") return true;
  return false;
}

/** From `run` to `idle`, or to the end of the engine. Resolves to the tasks that it could not come to. */
function converse(deps: RunDeps, run: ActiveRun, engine: Engine, plans: PlansByTask): Promise<readonly TaskState[]> {
  return new Promise((resolve) => {
    const watch = deps.supervisor.watch(engine, run.shareBytes, (excess) => stopRun(deps, run, excess));
    const timeOut = () => stopRun(deps, run, { kind: "timed_out", timeoutMs: run.template.timeoutMs });
    let deadline = setTimeout(() => {
      if (openTasks(run).some((task) => task.status === "open")) timeOut();
      else deadline = setTimeout(timeOut, PUBLISHING_WITHIN_MS);
    }, run.template.timeoutMs);

    // Most are over before anybody could look.
    const telling = isMany(run) ? setInterval(() => tellStarted(deps, run), TELL_STARTED_MS) : undefined;

    function finish(): void {
      clearTimeout(deadline);
      deadline = setTimeout(() => deps.engines.kill(engine), IDLE_WITHIN_MS);
      deps.engines.finish(engine);
    }

    function over(): void {
      clearTimeout(deadline);
      clearInterval(telling);
      watch.end();
    }

    function onIdle(): void {
      over();
      answerOpenTasks(deps, run, outcomeOfEnd(SILENT_END, undefined));
      deps.engines.giveBack(engine, run.shareBytes);
      resolve([]);
    }

    engine.process.events = {
      onMessage(message, body) {
        if (message.type === "idle") {
          afterOutput(onIdle);
          return;
        }
        if (message.type === "swept") return;
        hear(deps, run, engine, watch, message, body);
        if (!("usage" in message)) return;
        if (!hasWork(run)) finish();
        else deadline.refresh();
      },
      onOutput(stream, chunk) {
        const task = firstListening(run);
        if (task !== undefined) deps.logs.write(task.ref, stream, chunk);
      },
      onEnd(end) {
        over();
        const again = unbegun(run);
        const lost = openTasks(run).filter((task) => !again.includes(task));
        const together = suspectsOf(run, lost);
        for (const task of lost)
          answer(deps, run, task, outcomeOfLost(task, end, run.stopped, together), usageOfLost(watch));
        resolve(again);
      },
    };
    // Said again by the engine when it has opened the plan; until then the client's word counts.
    if (run.template.hasPython) engine.user = run.template.user;
    for (const task of run.tasks.values()) task.heard = task.status === "answered";
    const parts = openTasks(run).flatMap((task) => plans.get(task.ref.taskId) ?? []);
    // Keys share the plan of the run, whichever of them are left.
    const bodies = isMany(run) ? parts : [...plans.values()];
    engine.process.send(messageFor(run, bodies), bodies.length === 1 ? bodies[0] : Buffer.concat(bodies));
    tellStarted(deps, run);
  });
}

/** All that the engine has begun: of many queries the one that it is at. */
export function tellStarted(deps: Pick<RunDeps, "outbox">, run: ActiveRun): void {
  const begun = isMany(run) ? [currentOf(run)].filter((task) => task?.status === "open") : openTasks(run);
  deps.outbox.started(begun.flatMap((task) => task?.ref ?? []));
}

/** Queries that go to the engine together, each with a plan of its own. */
function isMany(run: ActiveRun): boolean {
  return run.leased.length > 1;
}

/** The task that the engine is at: it answers in order. */
function currentOf(run: ActiveRun): TaskState | undefined {
  for (const task of run.tasks.values()) if (!task.heard) return task;
  return undefined;
}

/** Queries that are not to blame for the end of their engine. Those of a node that drains are given back with the rest. */
function unbegun(run: ActiveRun): readonly TaskState[] {
  if (!isMany(run) || run.stopped?.kind === "draining") return [];
  const current = currentOf(run);
  return openTasks(run).filter((task) => task !== current);
}

/** How many keys may be to blame for the end of their engine: what it holds may be of those that it answered, the time that is over is not. */
function suspectsOf(run: ActiveRun, lost: readonly TaskState[]): number {
  if (isMany(run)) return 1;
  return run.stopped?.kind === "timed_out" ? lost.filter((task) => task.status === "open").length : run.tasks.size;
}

/** The engine ended the run without an answer for each task: as good as an engine that is gone. */
const SILENT_END: EngineEnd = { exitCode: null, signal: null, broke: "the run ended without an answer for this task" };

function messageFor(run: ActiveRun, plans: readonly Buffer[]): ToEngine {
  const { template } = run;
  const [first] = run.leased;
  if (first.publish !== null) {
    return {
      type: "republish",
      jobId: template.jobId,
      task: first.tasks[0] as TaskRef,
      manifest: first.publish.manifest,
      storageOptions: template.output.storageOptions,
      cwd: template.cwd,
    };
  }
  return {
    type: "run",
    kind: first.kind,
    jobId: template.jobId,
    tasks: openTasks(run).map((task) => task.ref),
    plan: { kind: first.planKind, bytes: plans.map((plan) => plan.length) },
    engine: template.engine,
    output: template.output,
    resultsLocation: template.resultsLocation,
    partitionBy: template.partitionBy,
    splitState: template.splitState,
    threads: run.slots,
    memoryBytes: run.shareBytes,
    seed: template.seed,
    cwd: template.cwd,
    headBytesMax: template.headBytesMax,
  };
}

function firstListening(run: ActiveRun): TaskState | undefined {
  for (const task of run.tasks.values()) if (task.logOpen) return task;
  return undefined;
}

type TaskMessage = Exclude<FromEngine, { type: "idle" | "swept" }>;

function hear(deps: RunDeps, run: ActiveRun, engine: Engine, watch: Watch, message: TaskMessage, body: Buffer): void {
  if (message.type === "ready") return;
  if (message.type === "opened") {
    run.openedPython = message.python;
    if (message.python) engine.user = run.template.user;
    return;
  }
  const task = message.taskId === null ? firstListening(run) : run.tasks.get(message.taskId);
  if (task !== undefined && "usage" in message) task.heard = true;
  // Cancelled or abandoned: whatever the engine still says of it, nobody is to hear.
  if (task === undefined || task.status === "answered") return;
  if (message.type === "log") deps.logs.writeLine(task.ref, message.stream, message.text);
  else if (message.type === "progress") deps.progress.tell(task.ref, message.phase);
  else if (message.type === "staged") offer(deps, task, message.manifest);
  else {
    watch.refresh();
    deps.times.learn(run.template.jobId, message.usage.wallMs);
    answer(deps, run, task, outcomeOf(message, body), { ...message.usage, peakMemoryBytes: watch.peakBytes });
  }
}

/** The output lies staged, and may become visible when the control plane says so. */
function offer(deps: RunDeps, task: TaskState, manifest: Manifest): void {
  task.status = "staged";
  deps.outbox.staged({ type: "staged", taskId: task.ref.taskId, attempt: task.ref.attempt, manifest });
}

function outcomeOf(message: Extract<TaskMessage, { usage: unknown }>, body: Buffer): Outcome {
  switch (message.type) {
    case "keys":
      return { kind: "split", keys: message.keys, splitState: message.splitState, stored: message.stored };
    case "done":
      return { kind: "succeeded", result: message.result, head: body.length === 0 ? null : body.toString("base64") };
    case "failed":
      return { kind: "failed", error: message.error, retryable: message.retryable };
  }
}

/** Decides a task's outcome. It is sent after the attempt's last log lines, so that who waits for the one has the other. */
function answer(deps: AnswerDeps, run: ActiveRun, task: TaskState, outcome: Outcome, usage: NodeUsage | null): void {
  task.status = "answered";
  deps.progress.drop(task.ref);
  const { taskId, attempt } = task.ref;
  const message: Extract<FromNode, { type: "finished" }> = {
    type: "finished",
    taskId,
    attempt,
    outcome,
    usage,
    openedPython: run.openedPython,
  };
  afterOutput(() => {
    task.logOpen = false;
    const closing = deps.logs.close(task.ref);
    const send = () => {
      deps.outbox.finished(message);
      deps.dropAttempt(task.ref);
    };
    if (closing === undefined) send();
    else void closing.then(send);
  });
}

/** What is staged is safe: another engine can finish its publishing, so that the end of this one is not its failure. */
function outcomeOfLost(task: TaskState, end: EngineEnd, stop: Stop | undefined, together: number): Outcome {
  const own = stop?.kind === "cancelled" || stop?.kind === "draining";
  return outcomeOfEnd(end, task.status === "open" || own ? stop : undefined, together);
}

function usageOfLost(watch: Watch): NodeUsage {
  return { wallMs: performance.now() - watch.startedAt, cpuMs: watch.cpuMs, peakMemoryBytes: watch.peakBytes };
}

/**
 * Raw output and protocol come through different pipes. What was written before the message that was just read is there to be read, but may not
 * have been yet: one full turn of the event loop later it has.
 */
function afterOutput(then: () => void): void {
  setImmediate(() => setImmediate(then));
}

/** Ends the engine of a run that has started; the outcome follows when it is gone. */
export function stopRun(deps: Pick<RunDeps, "engines">, run: ActiveRun, stop: Stop): void {
  run.stopped ??= stop;
  if (run.engine !== undefined) deps.engines.kill(run.engine);
}

/** Takes one task out of a run, and reports that it was given back. */
export function withdrawAndTell(deps: RunDeps, run: ActiveRun, task: TaskState): void {
  const { status } = task;
  // What is being made visible is not taken back; its answer is on its way.
  if (status === "answered" || status === "publishing") return;
  answer(deps, run, task, { kind: "released" }, null);
  releaseEngine(deps, run, task, status);
}

/** Takes one task out of a run. The control plane has given it to another node, or has ended it by itself. */
export function withdrawSilently(deps: RunDeps, run: ActiveRun, task: TaskState): void {
  const { status } = task;
  if (status === "answered") return;
  task.status = "answered";
  task.logOpen = false;
  deps.progress.drop(task.ref);
  void deps.logs.close(task.ref);
  deps.dropAttempt(task.ref);
  // Publishing does no harm when another node does the same.
  if (status !== "publishing") releaseEngine(deps, run, task, status);
}

/** Ends the engine when none of its tasks is wanted any more, else tells it to let go of this one. */
function releaseEngine(deps: RunDeps, run: ActiveRun, task: TaskState, status: "open" | "staged"): void {
  const engine = run.engine;
  if (engine === undefined) return;
  const others = hasWork(run);
  // Many queries wait for the one that nobody wants any more: they go to another engine.
  if (others && isMany(run) && task === currentOf(run)) {
    deps.engines.kill(engine);
    return;
  }
  if (others || status === "staged") engine.process.send({ type: "abandon", taskId: task.ref.taskId });
  if (others) return;
  const end = () => {
    if (run.engine === engine) stopRun(deps, run, { kind: "cancelled" });
  };
  // One that has staged waits for this very message, removes its files and says `idle`: a warm engine is kept.
  if (status === "open") end();
  else setTimeout(end, ABANDON_WITHIN_MS).unref();
}

/** The control plane has fenced the attempt: its output may become visible. */
export function publish(run: ActiveRun, task: TaskState): void {
  if (task.status !== "staged" || run.engine === undefined) return;
  task.status = "publishing";
  run.engine.process.send({ type: "publish", taskId: task.ref.taskId });
}
