import {
  type AttemptRef,
  type FromNode,
  JoinAnswer,
  LeaseBatch,
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
  readonly runs: LeasedRun[];
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

export function makeFakeNode(address: string, id: string, token: string): FakeNode {
  const api = openApi(address, token);
  const received: ToNode[] = [];
  const untaken: ToNode[] = [];
  const runs: LeasedRun[] = [];
  const faults: string[] = [];
  let socket: WebSocket | undefined;

  const keepBatch = ({ template, runs: leased }: LeaseBatch) => {
    for (const run of leased) runs.push({ run, template, task: run.tasks[0] as TaskRef });
  };
  const receiveFrame = async (data: Buffer) => {
    // The agent would cut the connection at a larger one.
    if (data.length > NODE_MESSAGE_BYTES_MAX) faults.push(`a message of ${data.length} bytes came`);
    await receive(ToNode.parse(JSON.parse(data.toString("utf8"))));
  };
  const sendByHttp = (message: FromNode) => {
    const fail = (error: Error) => void faults.push(error.message);
    api
      .post("/v1/agent/messages", { messages: [message] })
      .then((answer) => Promise.all(Acknowledgements.parse(answer).messages.map(receive)))
      .catch(fail);
  };
  const receive = async (message: ToNode) => {
    received.push(message);
    untaken.push(message);
    if (message.type === "lease") keepBatch(message.batch);
    if (message.type !== "lease_by_reference") return;
    const { batches } = Leases.parse(await api.post("/v1/agent/leases", { tasks: message.tasks }));
    for (const batch of batches) keepBatch(batch);
  };
  const takeFrom = async <T>(what: string, list: T[], matches: (item: T) => boolean, deadlineMs?: number): Promise<T> =>
    waitUntil(
      `node ${id} gets ${what}`,
      () => {
        if (faults.length > 0) throw new Error(faults.join("; "));
        const at = list.findIndex(matches);
        return at === -1 ? undefined : (list.splice(at, 1)[0] as T & object);
      },
      deadlineMs,
    ) as Promise<T>;

  const node: FakeNode = {
    id,
    token,
    api,
    received,
    runs,
    isOpen: () => socket?.readyState === WebSocket.OPEN,
    send(message) {
      const text = JSON.stringify(message);
      if (Buffer.byteLength(text) > NODE_MESSAGE_BYTES_MAX) return sendByHttp(message);
      if (!node.isOpen()) throw new Error(`node ${id} is not connected`);
      socket?.send(text);
    },
    take: async (type, deadlineMs) =>
      (await takeFrom(`a ${type}`, untaken, (message) => message.type === type, deadlineMs)) as never,
    takeRun: (deadlineMs) => takeFrom("a run", runs, () => true, deadlineMs),
    start: (tasks) => node.send({ type: "started", tasks: tasks.map(refOf) }),
    async finish(task, outcome) {
      const ref = refOf(task);
      node.send({ type: "finished", ...ref, outcome, usage: USAGE, openedPython: false });
      const answer = await takeFrom("a recorded", untaken, (one) => one.type === "recorded" && isSame(one, ref));
      return answer.type === "recorded" && answer.accepted;
    },
    async stage(task, manifest = { parts: "a" }) {
      const ref = refOf(task);
      node.send({ type: "staged", ...ref, manifest });
      const isAnswer = (one: ToNode) => (one.type === "publish" || one.type === "abandon") && isSame(one, ref);
      return (await takeFrom("an answer to staged", untaken, isAnswer)).type as "publish" | "abandon";
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
      socket = new WebSocket(`${address.replace(/^http/, "ws")}/v1/agent/connect`, {
        headers: { authorization: `Bearer ${token}` },
        perMessageDeflate: false,
      });
      socket.on("error", (error) => faults.push(error.message));
      socket.on("message", (data) => {
        receiveFrame(data as Buffer).catch((error: Error) => faults.push(error.message));
      });
      await waitUntil(`node ${id} is connected`, () => {
        if (faults.length > 0) throw new Error(faults.join("; "));
        return node.isOpen();
      });
      node.send({ type: "hello", holding: holding.map(refOf) });
      await node.take("welcome");
    },
  };
  return node;
}

const refOf = ({ taskId, attempt }: AttemptRef): AttemptRef => ({ taskId, attempt });
const isSame = (one: AttemptRef, other: AttemptRef) => one.taskId === other.taskId && one.attempt === other.attempt;

export type Answerer = (task: TaskRef, leased: LeasedRun) => Outcome | Promise<Outcome>;

/** Lets a node do all that it is given until the test ends it: starts each run, answers for each of its tasks. */
export function letWork(node: FakeNode, answer: Answerer): { readonly done: LeasedRun[]; stop(): Promise<void> } {
  const done: LeasedRun[] = [];
  let stopped = false;
  const work = async () => {
    while (!stopped) {
      const leased = await waitUntil("there is a run, or the node stops", () => node.runs.shift() ?? stopped, 120_000);
      if (leased === true) return;
      node.start(leased.run.tasks);
      for (const task of leased.run.tasks) await node.finish(task, await answer(task, leased));
      done.push(leased);
    }
  };
  const working = work();
  return {
    done,
    async stop() {
      stopped = true;
      await working;
    },
  };
}
