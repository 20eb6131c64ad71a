import { setTimeout as delay } from "node:timers/promises";
import {
  type AttemptRef,
  type FromNode,
  HEARTBEAT_INTERVAL_MS,
  type LeaseBatch,
  makeFrameWriter,
  messagesOfFrame,
  type Run,
  type ToNode,
} from "@frazil/contracts";
import { WebSocket } from "ws";
import { joinNode } from "../../harness/fake-node.ts";
import { nowMs, type Part } from "./messages.ts";

const RECONNECT_MS = 100;
const JOIN_ATTEMPTS_MAX = 50;
/** A plan with this in it fails. The rest is the message, of which there are few among many. */
const FAILS = / fails (\d)/;
/** Runs at once cost an engine about as much. */
const TASK_MS_MIN = 1;
/** As large as the first rows of a small result in Arrow IPC. */
const HEAD = Buffer.alloc(400, 7).toString("base64");

/** What nodes of one process saw, together. */
export interface Watcher {
  connected(nodeId: string, again: boolean): void;
  disconnected(): void;
  beat(ms: number, lost: number): void;
  leased(jobId: string, atMs: number): void;
  /** How long a task takes now. */
  taskMs(): number;
}

/**
 * A node without an agent and engines: speaks the node protocol over a real connection, renews its leases, and answers what it is given at once or
 * after a while. It is light enough to have a thousand of them on one machine.
 */
export async function playNode(part: Part, watcher: Watcher): Promise<void> {
  const { nodeToken, nodeId } = await join(part);
  for (let turn = 0; ; turn++) {
    const address = part.addresses[turn % part.addresses.length] as string;
    await serve(address, nodeToken, nodeId, turn > 0, watcher);
    await delay(RECONNECT_MS);
  }
}

async function join(part: Part) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await joinNode(part.order);
    } catch (error) {
      if (attempt === JOIN_ATTEMPTS_MAX) throw error;
      await delay(RECONNECT_MS);
    }
  }
}

/** What is held over connections: an attempt whose end was not acknowledged is reported anew. */
const holdings = new Map<string, Map<string, FromNode | undefined>>();

function serve(address: string, token: string, nodeId: string, again: boolean, watcher: Watcher): Promise<void> {
  const held = holdings.get(nodeId) ?? new Map<string, FromNode | undefined>();
  holdings.set(nodeId, held);
  const socket = new WebSocket(`${address.replace(/^http/, "ws")}/v1/agent/connect`, {
    headers: { authorization: `Bearer ${token}` },
    perMessageDeflate: false,
  });
  const frames = makeFrameWriter<FromNode>((frame) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(frame);
  });
  const send = (message: FromNode) => {
    if (!frames.write(message)) void sendByHttp(address, token, message).then((answers) => answers.forEach(receive));
  };
  let beatAtMs = 0;
  const beat = () => {
    beatAtMs = performance.now();
    send({ type: "heartbeat", holding: [...held.keys()].map(refOf), cpuPercent: 1, memoryBytes: 1 });
  };
  let beating: NodeJS.Timeout | undefined;
  let isWelcome = false;
  socket.on("open", () => send({ type: "hello", holding: [...held.keys()].map(refOf) }));
  const receive = (message: ToNode) => {
    if (message.type === "welcome") {
      isWelcome = true;
      watcher.connected(nodeId, again);
      for (const end of held.values()) if (end !== undefined) send(end);
      beating = setInterval(beat, HEARTBEAT_INTERVAL_MS);
    } else if (message.type === "lease") run(message.batch, held, send, watcher);
    else if (message.type === "recorded") held.delete(keyOf(message));
    else if (message.type === "beat") {
      // An attempt whose end was reported meanwhile is no longer ours, as it should be.
      const lost = message.lost.filter((one) => held.has(keyOf(one)) && held.get(keyOf(one)) === undefined);
      watcher.beat(performance.now() - beatAtMs, lost.length);
      for (const one of lost) held.delete(keyOf(one));
    } else if (message.type === "cancel")
      for (const task of message.tasks) end(task, { type: "finished", ...task, ...RELEASED }, held, send);
    // What is leased has begun at once: there is nothing to give back.
    else if (message.type !== "recall" && message.type !== "sweep")
      throw new Error(`a light node does not know ${message.type}`);
  };
  socket.on("message", (data) => {
    for (const message of messagesOfFrame(JSON.parse(String(data)))) receive(message as ToNode);
  });
  socket.on("error", () => undefined);
  return new Promise((resolve) =>
    socket.on("close", () => {
      clearInterval(beating);
      if (isWelcome) watcher.disconnected();
      resolve();
    }),
  );
}

/** As an agent does with what is too large for a frame: a heartbeat that names much. */
async function sendByHttp(address: string, token: string, message: FromNode): Promise<ToNode[]> {
  const response = await fetch(`${address}/v1/agent/messages`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ messages: [message] }),
  });
  return response.ok ? ((await response.json()) as { messages: ToNode[] }).messages : [];
}

const RELEASED = { outcome: { kind: "released" }, usage: null, openedPython: false } as const;

function run(
  batch: LeaseBatch,
  held: Map<string, FromNode | undefined>,
  send: (message: FromNode) => void,
  watcher: Watcher,
): void {
  const atMs = nowMs();
  watcher.leased(batch.template.jobId, atMs);
  const tasks = batch.runs.flatMap((one) => one.tasks.map(({ taskId, attempt }) => ({ taskId, attempt })));
  for (const task of tasks) held.set(keyOf(task), undefined);
  send({ type: "started", tasks });
  const taskMs = watcher.taskMs();
  const finish = () => {
    for (const one of batch.runs)
      for (const task of one.tasks) if (held.has(keyOf(task))) end(task, finished(one, task, taskMs), held, send);
  };
  if (taskMs === 0) finish();
  else setTimeout(finish, taskMs);
}

function end(
  task: AttemptRef,
  message: FromNode,
  held: Map<string, FromNode | undefined>,
  send: (message: FromNode) => void,
) {
  held.set(keyOf(task), message);
  send(message);
}

function finished(one: Run, { taskId, attempt }: AttemptRef, taskMs: number): FromNode {
  const fails = FAILS.exec(Buffer.from(one.plan ?? "", "base64").toString("latin1"));
  const usage = { wallMs: Math.max(TASK_MS_MIN, taskMs), cpuMs: TASK_MS_MIN, peakMemoryBytes: 1_000_000 };
  const common = { type: "finished", taskId, attempt, usage, openedPython: false } as const;
  if (fails !== null) {
    const error = {
      code: "query_failed",
      message: `column ${fails[1]} is not there`,
      type: "ColumnNotFoundError",
    } as const;
    return { ...common, outcome: { kind: "failed", error, retryable: false } };
  }
  const result = {
    locations: [`/results/${taskId}/${attempt}.arrow`],
    schema: [{ name: "n", dtype: "Int64" }],
    rows: 1,
    bytes: 400,
    warnings: [],
  };
  return { ...common, outcome: { kind: "succeeded", result, head: HEAD } };
}

const keyOf = ({ taskId, attempt }: AttemptRef) => `${taskId}#${attempt}`;
function refOf(key: string): AttemptRef {
  const [taskId = "", attempt] = key.split("#");
  return { taskId, attempt: Number(attempt) };
}
