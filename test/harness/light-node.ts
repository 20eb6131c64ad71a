import {
  type AttemptRef,
  type FromNode,
  HEARTBEAT_INTERVAL_MS,
  type LeaseBatch,
  makeFrameWriter,
  messagesOfFrame,
  type Outcome,
  type Run,
  type ToNode,
} from "@frazil/contracts";
import { WebSocket } from "ws";
import { openApi } from "./api.ts";
import { succeeded } from "./submissions.ts";

/**
 * A node without an agent and engines, as cheap as can be: a thousand fit into one machine. It speaks the node protocol over a real connection, has slots and
 * a queue as an agent has, and its runs are timers.
 */
export interface LightNode {
  /** What it was given and has not answered. */
  readonly held: ReadonlyMap<string, HeldTask>;
  readonly counts: { begun: number; finished: number; refused: number; cancelled: number; returned: number };
  isUp(): boolean;
  /** Ends the run that has gone on for longest: of tasks that take for ever. */
  endOldest(): void;
  stop(): void;
}

export interface HeldTask {
  readonly ref: AttemptRef;
  readonly run: Run;
  readonly jobId: string;
  readonly user: string;
  begunAtMs: number | undefined;
  /** How long it runs, and says that it ran: not what a loaded machine makes of that. */
  taskMs: number;
}

export interface LightNodeOptions {
  /** It connects to the first, and to the next ones in turn when a connection has ended. */
  readonly addresses: readonly string[];
  readonly nodeId: string;
  readonly nodeToken: string;
  /** Infinity: all that it is given begins at once. */
  readonly slots: number;
  /** How long a task runs: with 0 it is answered as it begins, with Infinity it goes on until `endOldest`. */
  readonly taskMs: (task: HeldTask) => number;
  readonly outcome?: (task: HeldTask) => Outcome;
  readonly onChange?: (what: "leased" | "begun" | "finished" | "given back", task: HeldTask) => void;
  readonly onConnection?: (what: "up" | "up again" | "down") => void;
  /** Milliseconds until a heartbeat was answered, and how many attempts it said were lost. */
  readonly onBeat?: (ms: number, lost: number) => void;
}

interface LightRun {
  readonly run: Run;
  readonly tasks: readonly HeldTask[];
  readonly slots: number;
  isBegun: boolean;
  timer: NodeJS.Timeout | undefined;
}

interface State {
  readonly options: LightNodeOptions;
  readonly held: Map<string, HeldTask>;
  readonly runs: Map<string, LightRun>;
  /** Those that have not begun, in order. */
  readonly waiting: Set<LightRun>;
  /** Answers that were not acknowledged: said again on every connection. */
  readonly outbox: Map<string, Extract<FromNode, { type: "finished" }>>;
  readonly counts: LightNode["counts"];
  used: number;
  socket: WebSocket | undefined;
  write: (message: FromNode) => void;
  connections: number;
  isUp: boolean;
  stopped: boolean;
  beatAtMs: number;
}

const RECONNECT_MS = 200;
/** Of a task that is answered at once: what it would cost an engine at least. */
const TASK_MS_MIN = 1;
const keyOf = ({ taskId, attempt }: AttemptRef) => `${taskId}#${attempt}`;

export function startLightNode(options: LightNodeOptions): LightNode {
  const state: State = {
    options,
    held: new Map(),
    runs: new Map(),
    waiting: new Set(),
    outbox: new Map(),
    counts: { begun: 0, finished: 0, refused: 0, cancelled: 0, returned: 0 },
    used: 0,
    socket: undefined,
    write: () => undefined,
    connections: 0,
    isUp: false,
    stopped: false,
    beatAtMs: 0,
  };
  const beat = setInterval(() => {
    if (!state.isUp) return;
    state.beatAtMs = performance.now();
    state.write({ type: "heartbeat", holding: holding(state), cpuPercent: 1, memoryBytes: 1 });
  }, HEARTBEAT_INTERVAL_MS);
  connect(state);
  return {
    held: state.held,
    counts: state.counts,
    isUp: () => state.isUp,
    endOldest() {
      const oldest = [...state.runs.values()].find((run) => run.isBegun);
      if (oldest !== undefined) end(state, oldest);
    },
    stop() {
      state.stopped = true;
      clearInterval(beat);
      for (const run of state.runs.values()) clearTimeout(run.timer);
      state.socket?.terminate();
    },
  };
}

function connect(state: State): void {
  if (state.stopped) return;
  const { addresses, nodeToken, onConnection } = state.options;
  const address = addresses[state.connections % addresses.length] as string;
  const isAgain = state.connections > 0;
  state.connections += 1;
  const socket = new WebSocket(`${address.replace(/^http/, "ws")}/v1/agent/connect`, {
    headers: { authorization: `Bearer ${nodeToken}` },
    perMessageDeflate: false,
  });
  state.socket = socket;
  const frames = makeFrameWriter<FromNode>((frame) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(frame);
  });
  state.write = (message) => {
    if (!frames.write(message)) sendByHttp(state, address, message);
  };
  socket.on("open", () => state.write({ type: "hello", holding: holding(state) }));
  socket.on("message", (data) => {
    for (const message of messagesOfFrame(JSON.parse(String(data)))) {
      if ((message as ToNode).type === "welcome") onConnection?.(isAgain ? "up again" : "up");
      receive(state, message as ToNode);
    }
  });
  socket.on("error", () => undefined);
  socket.on("close", () => {
    if (state.isUp) onConnection?.("down");
    state.isUp = false;
    setTimeout(() => connect(state), RECONNECT_MS * (0.5 + Math.random())).unref();
  });
}

function holding({ held, outbox }: State): AttemptRef[] {
  const answered = [...outbox.values()].map(({ taskId, attempt }) => ({ taskId, attempt }));
  return [...[...held.values()].map(({ ref }) => ref), ...answered];
}

/** As an agent does with what is too large for a frame: a heartbeat that names much. */
function sendByHttp(state: State, address: string, message: FromNode): void {
  openApi(address, state.options.nodeToken)
    .post<{ messages: ToNode[] }>("/v1/agent/messages", { messages: [message] })
    .then(
      ({ messages }) => {
        for (const answer of messages) receive(state, answer);
      },
      () => undefined,
    );
}

function receive(state: State, message: ToNode): void {
  const { counts } = state;
  switch (message.type) {
    case "welcome":
      state.isUp = true;
      for (const answer of state.outbox.values()) state.write(answer);
      break;
    case "lease":
      takeOn(state, message.batch);
      break;
    case "recorded":
      if (!message.accepted) counts.refused += 1;
      state.outbox.delete(keyOf(message));
      break;
    case "cancel":
      for (const ref of message.tasks) if (giveBack(state, ref, { kind: "released" })) counts.cancelled += 1;
      break;
    case "recall":
      for (const ref of message.tasks) {
        const isWaiting = state.runs.get(keyOf(ref))?.isBegun === false;
        if (isWaiting && giveBack(state, ref, { kind: "returned" })) counts.returned += 1;
      }
      break;
    case "beat": {
      // An attempt whose end was reported meanwhile is no longer ours, as it should be.
      const lost = message.lost.filter((ref) => giveBack(state, ref, undefined));
      for (const ref of message.lost) state.outbox.delete(keyOf(ref));
      state.options.onBeat?.(performance.now() - state.beatAtMs, lost.length);
      break;
    }
  }
}

function takeOn(state: State, { template, runs }: LeaseBatch): void {
  for (const run of runs) {
    const fresh = run.tasks.filter((ref) => !state.held.has(keyOf(ref)) && !state.outbox.has(keyOf(ref)));
    const tasks = fresh.map(
      ({ taskId, attempt }): HeldTask => ({
        ref: { taskId, attempt },
        run,
        jobId: template.jobId,
        user: template.user,
        begunAtMs: undefined,
        taskMs: 0,
      }),
    );
    if (tasks.length === 0) continue;
    const slots = Math.min(run.slots, state.options.slots);
    const light: LightRun = { run, tasks, slots, isBegun: false, timer: undefined };
    state.waiting.add(light);
    for (const task of tasks) {
      state.held.set(keyOf(task.ref), task);
      state.runs.set(keyOf(task.ref), light);
      state.options.onChange?.("leased", task);
    }
  }
  schedule(state);
}

/** In order: a later, smaller one does not pass one that does not fit. */
function schedule(state: State): void {
  for (const light of state.waiting) {
    if (state.used + light.slots > state.options.slots) return;
    begin(state, light);
  }
}

function begin(state: State, light: LightRun): void {
  state.waiting.delete(light);
  state.used += light.slots;
  light.isBegun = true;
  const tasks = light.tasks.filter((task) => state.held.has(keyOf(task.ref)));
  const ms = state.options.taskMs(tasks[0] as HeldTask);
  for (const task of tasks) {
    task.begunAtMs = performance.now();
    task.taskMs = ms;
    state.counts.begun += 1;
    state.options.onChange?.("begun", task);
  }
  state.write({ type: "started", tasks: tasks.map((task) => task.ref) });
  if (ms === 0) finish(state, light);
  else if (Number.isFinite(ms)) light.timer = setTimeout(() => end(state, light), ms);
}

function end(state: State, light: LightRun): void {
  finish(state, light);
  schedule(state);
}

function finish(state: State, light: LightRun): void {
  const { outcome, onChange } = state.options;
  for (const task of light.tasks) {
    if (!state.held.has(keyOf(task.ref))) continue;
    state.counts.finished += 1;
    answer(state, task, outcome?.(task) ?? succeeded());
    onChange?.("finished", task);
  }
}

function giveBack(state: State, ref: AttemptRef, outcome: Outcome | undefined): boolean {
  const task = state.held.get(keyOf(ref));
  if (task === undefined) return false;
  answer(state, task, outcome);
  state.options.onChange?.("given back", task);
  schedule(state);
  return true;
}

function answer(state: State, task: HeldTask, outcome: Outcome | undefined): void {
  const light = state.runs.get(keyOf(task.ref)) as LightRun;
  state.held.delete(keyOf(task.ref));
  state.runs.delete(keyOf(task.ref));
  if (light.tasks.every((one) => !state.held.has(keyOf(one.ref)))) leave(state, light);
  if (outcome === undefined) return;
  const ms = Math.max(TASK_MS_MIN, Number.isFinite(task.taskMs) ? task.taskMs : ranMs(task));
  const usage = { wallMs: ms, cpuMs: ms, peakMemoryBytes: 1 };
  const message = { type: "finished", ...task.ref, outcome, usage, openedPython: false } as const;
  state.outbox.set(keyOf(task.ref), message);
  state.write(message);
}

function ranMs({ begunAtMs }: HeldTask): number {
  return begunAtMs === undefined ? 0 : Math.round(performance.now() - begunAtMs);
}

/** Nothing of the run is left: what it took is free. */
function leave(state: State, light: LightRun): void {
  clearTimeout(light.timer);
  state.waiting.delete(light);
  if (light.isBegun) state.used -= light.slots;
}
