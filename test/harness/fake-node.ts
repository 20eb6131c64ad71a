import { once } from "node:events";
import {
  type AttemptRef,
  type FromNode,
  JoinAnswer,
  LeaseBatch,
  messagesOfFrame,
  NODE_ENV,
  NODE_MESSAGE_BYTES_MAX,
  type NodeLogLine,
  type NodeUsage,
  type Outcome,
  type Run,
  type RunTemplate,
  type TaskRef,
  ToNode,
} from "@frazil/contracts";
import type { NodeOrder } from "@frazil/infra";
import { WebSocket } from "ws";
import { z } from "zod";
import { type Api, openApi } from "./api.ts";
import { waitUntil } from "./wait-until.ts";

export interface LeasedRun {
  readonly run: Run;
  readonly template: RunTemplate;
  /** The first task of the run: the only one, but for keys. */
  readonly task: TaskRef;
}

export const USAGE: NodeUsage = { wallMs: 12, cpuMs: 10, peakMemoryBytes: 1_000_000 };

/** A node without engines: it speaks the node protocol over a real WebSocket, and says what a test tells it to. */
export interface FakeNode {
  readonly id: string;
  readonly token: string;
  readonly api: Api;
  /** Every message of the control plane, in order. */
  readonly received: ToNode[];
  isOpen(): boolean;
  send(message: FromNode): void;
  /** The first message of this type that was not taken yet. */
  take<T extends ToNode["type"]>(type: T, deadlineMs?: number): Promise<Extract<ToNode, { type: T }>>;
  /** The first leased run that was not taken yet; what comes by reference is fetched. */
  takeRun(deadlineMs?: number): Promise<LeasedRun>;
  /** Runs that wait to be taken. */
  readonly waitingRuns: readonly LeasedRun[];
  onRun(listener: () => void): () => void;
  start(tasks: readonly AttemptRef[]): void;
  /** Reports the end of an attempt and returns whether it was accepted. */
  finish(task: AttemptRef, outcome: Outcome): Promise<boolean>;
  /** Reports staged output, and returns the answer. */
  stage(task: AttemptRef, manifest?: Record<string, string>): Promise<"publish" | "abandon">;
  /** Sends a heartbeat and returns what it was told to have lost. */
  beat(holding: readonly AttemptRef[]): Promise<AttemptRef[]>;
  log(lines: readonly NodeLogLine[]): Promise<void>;
  disconnect(): Promise<void>;
  reconnect(holding?: readonly AttemptRef[]): Promise<void>;
}

const Leases = z.object({ batches: z.array(LeaseBatch) });
const Acknowledgements = z.object({ messages: z.array(ToNode) });

/** Joins with what the order gave to the machine. */
export async function joinNode(order: NodeOrder): Promise<{ address: string; nodeId: string; nodeToken: string }> {
  const address = order.environment[NODE_ENV.address] ?? "";
  const answer = await openApi(address, undefined).post("/v1/agent/join", joinRequest(order));
  return { address, ...JoinAnswer.parse(answer) };
}

export function joinRequest(order: NodeOrder) {
  return {
    joinToken: order.environment[NODE_ENV.joinToken],
    agentVersion: "0.0.0",
    hostname: "fake",
    pid: 1,
    pythons: ["3.11"],
  };
}

/** Joins, connects, and is welcome. */
export async function startFakeNode(order: NodeOrder): Promise<FakeNode> {
  const { address, nodeId, nodeToken } = await joinNode(order);
  const node = makeFakeNode(address, nodeId, nodeToken);
  await node.reconnect();
  return node;
}

/** What came over a node's connection, and was not taken yet. */
function makeInbox(id: string, api: Api) {
  const received: ToNode[] = [];
  const messages = makeShelf<ToNode>();
  const runs = makeShelf<LeasedRun>();
  const keepBatch = ({ template, runs: leased }: LeaseBatch) => {
    for (const run of leased) runs.put({ run, template, task: run.tasks[0] as TaskRef });
  };
  const receive = async (message: ToNode) => {
    received.push(message);
    messages.put(message);
    if (message.type === "lease") keepBatch(message.batch);
    if (message.type !== "lease_by_reference") return;
    const { batches } = Leases.parse(await api.post("/v1/agent/leases", { tasks: message.tasks }));
    for (const batch of batches) keepBatch(batch);
  };
  const fail = (error: Error) => {
    for (const shelf of [messages, runs]) shelf.fail(new Error(`node ${id}: ${error.message}`));
  };
  return {
    received,
    fail,
    receive: (message: ToNode) => void receive(message).catch(fail),
    receiveFrame(data: Buffer) {
      // The agent would cut the connection at a larger one.
      if (data.length > NODE_MESSAGE_BYTES_MAX) fail(new Error(`a message of ${data.length} bytes came`));
      for (const message of messagesOfFrame(JSON.parse(data.toString("utf8"))))
        receive(ToNode.parse(message)).catch(fail);
    },
    takeMessage: (what: string, matches: (message: ToNode) => boolean, deadlineMs?: number) =>
      messages.take(`node ${id} gets ${what}`, matches, deadlineMs),
    takeRun: (deadlineMs?: number) => runs.take(`node ${id} gets a run`, () => true, deadlineMs),
    waitingRuns: runs.items,
    onRun: runs.onPut,
  };
}

const TAKE_DEADLINE_MS = 10_000;

/** Things that come one by one, each to be taken once, in any order. */
function makeShelf<T>() {
  interface Taker {
    readonly matches: (item: T) => boolean;
    readonly resolve: (item: T) => void;
    readonly reject: (error: Error) => void;
  }
  const items: T[] = [];
  const takers = new Set<Taker>();
  const listeners = new Set<() => void>();
  let fault: Error | undefined;
  return {
    items: items as readonly T[],
    put(item: T) {
      const taker = [...takers].find((one) => one.matches(item));
      if (taker === undefined) items.push(item);
      else taker.resolve(item);
      for (const listener of listeners) listener();
    },
    onPut(listener: () => void): () => void {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    fail(error: Error) {
      fault = error;
      for (const taker of takers) taker.reject(error);
    },
    take(what: string, matches: (item: T) => boolean, deadlineMs = TAKE_DEADLINE_MS): Promise<T> {
      return new Promise((resolve, reject) => {
        if (fault !== undefined) return reject(fault);
        const at = items.findIndex(matches);
        if (at !== -1) return resolve(items.splice(at, 1)[0] as T);
        const end = () => {
          clearTimeout(timer);
          takers.delete(taker);
        };
        const taker: Taker = {
          matches,
          resolve(item) {
            end();
            resolve(item);
          },
          reject(error) {
            end();
            reject(error);
          },
        };
        const late = () => taker.reject(new Error(`waited ${deadlineMs} ms in vain until ${what}`));
        const timer = setTimeout(late, deadlineMs);
        takers.add(taker);
      });
    },
  };
}

export function makeFakeNode(address: string, id: string, token: string): FakeNode {
  const api = openApi(address, token);
  const inbox = makeInbox(id, api);
  let socket: WebSocket | undefined;
  const node: FakeNode = {
    id,
    token,
    api,
    received: inbox.received,
    waitingRuns: inbox.waitingRuns,
    onRun: inbox.onRun,
    isOpen: () => socket?.readyState === WebSocket.OPEN,
    send(message) {
      const text = JSON.stringify(message);
      if (Buffer.byteLength(text) > NODE_MESSAGE_BYTES_MAX) return sendByHttp(api, inbox, message);
      if (!node.isOpen()) throw new Error(`node ${id} is not connected`);
      socket?.send(text);
    },
    take: async (type, deadlineMs) =>
      (await inbox.takeMessage(`a ${type}`, (message) => message.type === type, deadlineMs)) as never,
    takeRun: inbox.takeRun,
    start: (tasks) => node.send({ type: "started", tasks: tasks.map(refOf) }),
    async finish(task, outcome) {
      const ref = refOf(task);
      node.send({ type: "finished", ...ref, outcome, usage: USAGE, openedPython: false });
      const answer = await inbox.takeMessage("a recorded", (one) => one.type === "recorded" && isSame(one, ref));
      return answer.type === "recorded" && answer.accepted;
    },
    async stage(task, manifest = { parts: "a" }) {
      const ref = refOf(task);
      node.send({ type: "staged", ...ref, manifest });
      const isAnswer = (one: ToNode) => (one.type === "publish" || one.type === "abandon") && isSame(one, ref);
      return (await inbox.takeMessage("an answer to staged", isAnswer)).type as "publish" | "abandon";
    },
    async beat(holding) {
      node.send({ type: "heartbeat", holding: holding.map(refOf), cpuPercent: 1, memoryBytes: 1 });
      return (await node.take("beat")).lost;
    },
    async log(lines) {
      await api.post("/v1/agent/logs", { lines });
    },
    async disconnect() {
      const before = socket;
      if (before === undefined) return;
      before.close();
      await waitUntil(`node ${id} is disconnected`, () => before.readyState === WebSocket.CLOSED);
    },
    async reconnect(holding = []) {
      socket?.terminate();
      socket = await connect(address, token, inbox);
      node.send({ type: "hello", holding: holding.map(refOf) });
      await node.take("welcome");
    },
  };
  return node;
}

async function connect(address: string, token: string, inbox: ReturnType<typeof makeInbox>): Promise<WebSocket> {
  const socket = new WebSocket(`${address.replace(/^http/, "ws")}/v1/agent/connect`, {
    headers: { authorization: `Bearer ${token}` },
    perMessageDeflate: false,
  });
  socket.on("message", (data) => inbox.receiveFrame(data as Buffer));
  await once(socket, "open");
  socket.on("error", inbox.fail);
  return socket;
}

/** As an agent does with what is too large for a frame. */
function sendByHttp(api: Api, inbox: ReturnType<typeof makeInbox>, message: FromNode): void {
  api
    .post("/v1/agent/messages", { messages: [message] })
    .then((answer) => {
      for (const one of Acknowledgements.parse(answer).messages) inbox.receive(one);
    })
    .catch(inbox.fail);
}

const refOf = ({ taskId, attempt }: AttemptRef): AttemptRef => ({ taskId, attempt });
const isSame = (one: AttemptRef, other: AttemptRef) => one.taskId === other.taskId && one.attempt === other.attempt;

export type Answerer = (task: TaskRef, leased: LeasedRun) => Outcome | Promise<Outcome>;

/** Lets a node do all that it is given until the test ends it: starts each run, answers for each of its tasks. */
export function letWork(node: FakeNode, answer: Answerer): { readonly done: LeasedRun[]; stop(): Promise<void> } {
  const done: LeasedRun[] = [];
  const finishing: Promise<unknown>[] = [];
  const work = async (leased: LeasedRun) => {
    node.start(leased.run.tasks);
    await Promise.all(leased.run.tasks.map(async (task) => node.finish(task, await answer(task, leased))));
    done.push(leased);
  };
  const takeAll = () => {
    while (node.waitingRuns.length > 0) finishing.push(node.takeRun().then(work));
  };
  const stopListening = node.onRun(takeAll);
  takeAll();
  return {
    done,
    async stop() {
      stopListening();
      await Promise.all(finishing);
    },
  };
}
