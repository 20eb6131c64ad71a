import {
  type AttemptRef,
  type FromNode,
  type LeaseBatch,
  messagesOfFrame,
  NODE_MESSAGE_BYTES_MAX,
  type Outcome,
  type Run,
  type ToNode,
} from "@frazil/contracts";
import { WebSocket } from "ws";
import { openApi } from "./api.ts";
import { succeeded } from "./submissions.ts";

/** A node as cheap as can be: a thousand fit into one process. It has slots and a queue as an agent has, and its runs are timers. */
export interface LightNode {
  /** What it was given and has not answered. */
  readonly held: ReadonlyMap<string, HeldTask>;
  readonly counts: { begun: number; finished: number; refused: number; cancelled: number; returned: number };
  isUp(): boolean;
  /** Cuts the connection. It opens it again by itself, maybe to another address. */
  cut(address?: string): void;
  stop(): void;
}

export interface HeldTask {
  readonly ref: AttemptRef;
  readonly jobId: string;
  readonly user: string;
  begunAtMs: number | undefined;
  /** How long it runs, and says that it ran: not what a loaded machine makes of that. */
  taskMs: number;
}

export interface LightNodeOptions {
  readonly address: string;
  readonly nodeId: string;
  readonly nodeToken: string;
  readonly slots: number;
  /** How long a task runs. */
  readonly taskMs: (task: HeldTask) => number;
  readonly heartbeatMs?: number;
  readonly onChange?: (what: "leased" | "begun" | "finished" | "given back", task: HeldTask) => void;
}

interface LightRun {
  readonly run: Run;
  readonly tasks: readonly HeldTask[];
  timer: NodeJS.Timeout | undefined;
}

interface State {
  readonly options: LightNodeOptions;
  readonly held: Map<string, HeldTask>;
  readonly runs: Map<string, LightRun>;
  /** Answers that were not acknowledged: said again on every connection. */
  readonly outbox: Map<string, Extract<FromNode, { type: "finished" }>>;
  readonly counts: { begun: number; finished: number; refused: number; cancelled: number; returned: number };
  address: string;
  socket: WebSocket | undefined;
  isUp: boolean;
  stopped: boolean;
}

const RECONNECT_MS = 200;
const HEARTBEAT_MS = 3_000;
const keyOf = ({ taskId, attempt }: AttemptRef) => `${taskId}#${attempt}`;

export function startLightNode(options: LightNodeOptions): LightNode {
  const state: State = {
    options,
    held: new Map(),
    runs: new Map(),
    outbox: new Map(),
    counts: { begun: 0, finished: 0, refused: 0, cancelled: 0, returned: 0 },
    address: options.address,
    socket: undefined,
    isUp: false,
    stopped: false,
  };
  const beat = setInterval(() => {
    if (state.isUp) send(state, { type: "heartbeat", holding: holding(state), cpuPercent: 1, memoryBytes: 1 });
  }, options.heartbeatMs ?? HEARTBEAT_MS);
  connect(state);
  return {
    held: state.held,
    counts: state.counts,
    isUp: () => state.isUp,
    cut(address) {
      state.address = address ?? state.address;
      state.socket?.terminate();
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
  const socket = new WebSocket(`${state.address.replace(/^http/, "ws")}/v1/agent/connect`, {
    headers: { authorization: `Bearer ${state.options.nodeToken}` },
    perMessageDeflate: false,
  });
  state.socket = socket;
  socket.on("open", () => socket.send(JSON.stringify({ type: "hello", holding: holding(state) })));
  socket.on("message", (data) => {
    for (const message of messagesOfFrame(JSON.parse(String(data)))) receive(state, message as ToNode);
  });
  socket.on("error", () => undefined);
  socket.on("close", () => {
    state.isUp = false;
    setTimeout(() => connect(state), RECONNECT_MS * (0.5 + Math.random())).unref();
  });
}

function holding({ held, outbox }: State): AttemptRef[] {
  const answered = [...outbox.values()].map(({ taskId, attempt }) => ({ taskId, attempt }));
  return [...[...held.values()].map(({ ref }) => ref), ...answered];
}

function send(state: State, message: FromNode): void {
  if (state.socket?.readyState !== WebSocket.OPEN) return;
  const text = JSON.stringify(message);
  if (text.length <= NODE_MESSAGE_BYTES_MAX) {
    state.socket.send(text);
    return;
  }
  openApi(state.address, state.options.nodeToken)
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
      for (const answer of state.outbox.values()) send(state, answer);
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
        const isWaiting = state.runs.get(keyOf(ref))?.timer === undefined;
        if (isWaiting && giveBack(state, ref, { kind: "returned" })) counts.returned += 1;
      }
      break;
    case "beat":
      for (const ref of message.lost) {
        state.outbox.delete(keyOf(ref));
        giveBack(state, ref, undefined);
      }
      break;
  }
}

function takeOn(state: State, { template, runs }: LeaseBatch): void {
  for (const run of runs) {
    const fresh = run.tasks.filter((ref) => !state.held.has(keyOf(ref)) && !state.outbox.has(keyOf(ref)));
    const tasks = fresh.map(
      ({ taskId, attempt }): HeldTask => ({
        ref: { taskId, attempt },
        jobId: template.jobId,
        user: template.user,
        begunAtMs: undefined,
        taskMs: 0,
      }),
    );
    const light: LightRun = { run, tasks, timer: undefined };
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
  const { slots } = state.options;
  let used = 0;
  for (const light of new Set(state.runs.values())) {
    used += Math.min(light.run.slots, slots);
    if (used > slots) return;
    if (light.timer === undefined) begin(state, light);
  }
}

function begin(state: State, light: LightRun): void {
  const tasks = light.tasks.filter((task) => state.held.has(keyOf(task.ref)));
  const ms = state.options.taskMs(light.tasks[0] as HeldTask);
  for (const task of tasks) {
    task.begunAtMs = performance.now();
    task.taskMs = ms;
    state.counts.begun += 1;
    state.options.onChange?.("begun", task);
  }
  send(state, { type: "started", tasks: tasks.map((task) => task.ref) });
  const finish = () => {
    for (const task of light.tasks) {
      if (!state.held.has(keyOf(task.ref))) continue;
      state.counts.finished += 1;
      answer(state, task, succeeded());
      state.options.onChange?.("finished", task);
    }
    schedule(state);
  };
  light.timer = setTimeout(finish, ms);
}

function giveBack(state: State, ref: AttemptRef, outcome: Outcome | undefined): boolean {
  const task = state.held.get(keyOf(ref));
  const light = state.runs.get(keyOf(ref));
  if (task === undefined || light === undefined) return false;
  answer(state, task, outcome);
  state.options.onChange?.("given back", task);
  if (light.tasks.every((one) => !state.held.has(keyOf(one.ref)))) clearTimeout(light.timer);
  schedule(state);
  return true;
}

function answer(state: State, task: HeldTask, outcome: Outcome | undefined): void {
  state.held.delete(keyOf(task.ref));
  state.runs.delete(keyOf(task.ref));
  if (outcome === undefined) return;
  const usage = { wallMs: task.taskMs, cpuMs: task.taskMs, peakMemoryBytes: 1 };
  const message = { type: "finished", ...task.ref, outcome, usage, openedPython: false } as const;
  state.outbox.set(keyOf(task.ref), message);
  send(state, message);
}
