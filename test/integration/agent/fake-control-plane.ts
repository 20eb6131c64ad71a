import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  FromNode,
  type LeaseBatch,
  messagesOfFrame,
  type NodeLogLine,
  type SweepOrder,
  type ToNode,
} from "@frazil/contracts";
import { type WebSocket, WebSocketServer } from "ws";

export type FinishedMessage = Extract<FromNode, { type: "finished" }>;

/** The control plane's side of the node protocol, without a database: it keeps what it hears, and a test says what to answer. */
export interface FakeControlPlane {
  readonly address: string;
  readonly heard: FromNode[];
  readonly lines: NodeLogLine[];
  readonly joins: unknown[];
  /** Content of leases by reference, and plans that do not travel inside a lease. */
  readonly batches: LeaseBatch[];
  readonly plans: Map<string, Buffer>;
  /** Plans are asked for, and answered when this resolves. */
  plansOpen: Promise<void>;
  readonly plansAsked: string[];
  /** What an ended job's sweep is about, in its parts. */
  readonly sweeps: Map<string, SweepOrder[]>;
  /** How many bytes the largest frame of a node had. */
  largestFrameBytes: number;
  /** False: outcomes are heard and not acknowledged. */
  acknowledging: boolean;
  accepting: boolean;
  /** Status with which connections are refused; 0 for none. */
  refuseWith: number;
  /** Status with which messages by HTTP are refused; 0 for none. */
  refuseLargeWith: number;
  /** False: heartbeats are heard and not answered. */
  beating: boolean;
  lost: { taskId: string; attempt: number }[];
  onStaged: "publish" | "abandon" | "silent";
  slots: number;
  memoryMiB: number;
  connections: number;
  send(message: ToNode): void;
  isConnected(): boolean;
  disconnect(): void;
  finished(taskId: string): FinishedMessage | undefined;
  close(): Promise<void>;
}

export async function startFakeControlPlane(): Promise<FakeControlPlane> {
  let socket: WebSocket | undefined;
  const server = createServer((request, response) => void route(plane, request, response));
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 64 * 1024 });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const plane: FakeControlPlane = {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    heard: [],
    lines: [],
    joins: [],
    batches: [],
    plans: new Map(),
    plansOpen: Promise.resolve(),
    plansAsked: [],
    sweeps: new Map(),
    largestFrameBytes: 0,
    acknowledging: true,
    accepting: true,
    refuseWith: 0,
    refuseLargeWith: 0,
    beating: true,
    lost: [],
    onStaged: "publish",
    slots: 2,
    memoryMiB: 600,
    connections: 0,
    send: (message) => socket?.send(JSON.stringify(message)),
    isConnected: () => socket !== undefined,
    disconnect: () => socket?.terminate(),
    finished: (taskId) =>
      plane.heard.find(
        (message): message is FinishedMessage => message.type === "finished" && message.taskId === taskId,
      ),
    async close() {
      for (const client of sockets.clients) client.terminate();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  server.on("upgrade", (request, stream, head) => {
    if (plane.refuseWith !== 0) return void stream.end(`HTTP/1.1 ${plane.refuseWith} No\r\ncontent-length: 0\r\n\r\n`);
    sockets.handleUpgrade(request, stream, head, (opened) => {
      socket = opened;
      plane.connections += 1;
      opened.on("close", () => {
        if (socket === opened) socket = undefined;
      });
      opened.on("message", (data) => {
        const text = String(data);
        plane.largestFrameBytes = Math.max(plane.largestFrameBytes, Buffer.byteLength(text));
        for (const message of messagesOfFrame(JSON.parse(text)))
          for (const answer of answersTo(plane, FromNode.parse(message))) opened.send(JSON.stringify(answer));
      });
    });
  });
  return plane;
}

function answersTo(plane: FakeControlPlane, message: FromNode): ToNode[] {
  plane.heard.push(message);
  switch (message.type) {
    case "hello":
      return [{ type: "welcome", slots: plane.slots, memoryMiB: plane.memoryMiB }];
    case "heartbeat":
      return plane.beating ? [{ type: "beat", lost: plane.lost }] : [];
    case "finished": {
      const { taskId, attempt } = message;
      return plane.acknowledging ? [{ type: "recorded", taskId, attempt, accepted: plane.accepting }] : [];
    }
    case "staged": {
      const { taskId, attempt } = message;
      return plane.onStaged === "silent" ? [] : [{ type: plane.onStaged, taskId, attempt }];
    }
    default:
      return [];
  }
}

async function route(plane: FakeControlPlane, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body = chunks.length === 0 ? undefined : JSON.parse(Buffer.concat(chunks).toString());
  const path = request.url ?? "";
  const answer = (status: number, content?: unknown) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(content === undefined ? undefined : JSON.stringify(content));
  };
  if (path === "/v1/agent/join") {
    if (plane.refuseWith !== 0) return answer(plane.refuseWith, { detail: "no" });
    plane.joins.push(body);
    return answer(200, { nodeId: "node_1", nodeToken: "secret-node-token" });
  }
  if (request.headers.authorization !== "Bearer secret-node-token") return answer(401);
  if (path === "/v1/agent/logs") {
    plane.lines.push(...body.lines);
    return answer(204);
  }
  if (path === "/v1/agent/messages") {
    if (plane.refuseLargeWith !== 0) return answer(plane.refuseLargeWith);
    return answer(200, {
      messages: body.messages.flatMap((message: unknown) => answersTo(plane, FromNode.parse(message))),
    });
  }
  if (path === "/v1/agent/leases") return answer(200, { batches: plane.batches.splice(0) });
  const sweep = /^\/v1\/agent\/sweeps\/(\w+)(?:\?after=(\d+))?$/.exec(path);
  if (sweep !== null) {
    const part = plane.sweeps.get(sweep[1] as string)?.[Number(sweep[2] ?? 0)];
    return part === undefined ? answer(404) : answer(200, part);
  }
  const planId = path.replace("/v1/agent/plans/", "");
  plane.plansAsked.push(planId);
  await plane.plansOpen;
  const plan = plane.plans.get(planId);
  if (plan === undefined) return answer(404);
  response.writeHead(200, { "content-type": "application/octet-stream" });
  response.end(plan);
}
