import {
  type AttemptRef,
  type FrameWriter,
  type FromNode,
  HELLO_HOLDING_MAX,
  makeFrameWriter,
  messagesOfFrame,
  NODE_MESSAGE_BYTES_MAX,
  ToNode,
} from "@frazil/contracts";
import type { Logger } from "pino";
import { WebSocket } from "ws";
import { backoffMs } from "./backoff.ts";
import { type ControlPlaneApi, RefusedError } from "./control-plane-api.ts";
import { parseJson } from "./json.ts";

const RECONNECT_BASE_MS = 100;
const RECONNECT_CAP_MS = 5_000;
/** A connection that lasted this long was a good one: the next loss begins with short waits again. */
const STEADY_AFTER_MS = 5_000;
const HANDSHAKE_WITHIN_MS = 10_000;
/** Nothing heard for this many heartbeats: the other side is gone, whatever the socket says. */
const SILENT_HEARTBEATS_MAX = 3;
/** The control plane keeps to NODE_MESSAGE_BYTES_MAX; this only bounds what a broken one can make us hold. */
const INCOMING_BYTES_MAX = 16 * NODE_MESSAGE_BYTES_MAX;
/** Answers that mean: this token is no good, now or later. */
const REFUSING_STATUSES = new Set([401, 403, 404, 410]);

export type ConnectionEnd = "refused" | "abandoned";

export interface ConnectionDeps {
  readonly address: string;
  readonly nodeToken: string;
  readonly api: Pick<ControlPlaneApi, "sendMessages">;
  readonly log: Logger;
  readonly heartbeatIntervalMs: number;
  readonly abandonedAfterMs: number;
  holding(): AttemptRef[];
  heartbeat(): FromNode;
  onMessage(message: ToNode): void;
  /** The control plane does not take this message, now or later. */
  onRefused(message: FromNode, error: RefusedError): void;
  /** The node is no longer wanted, or can't reach anyone: it must end. */
  onEnd(end: ConnectionEnd): void;
}

export interface Connection {
  /** False when there is no connection: the message is not sent. Messages too large for a frame go by HTTP. */
  send(message: FromNode): boolean;
  isUp(): boolean;
  close(): void;
}

interface State {
  readonly deps: ConnectionDeps;
  socket: WebSocket | undefined;
  /** Of the present socket. */
  writer: FrameWriter<FromNode>;
  /** When `welcome` came over the present connection; undefined while there is none. */
  upAt: number | undefined;
  heardAt: number;
  /** When the present socket was opened: it can't have said anything before. */
  openedAt: number;
  failures: number;
  closed: boolean;
  retry: NodeJS.Timeout | undefined;
  beat: NodeJS.Timeout | undefined;
}

/** The one outbound connection, reopened for as long as the node lives. It is up from `welcome` on. */
export function openConnection(deps: ConnectionDeps): Connection {
  const state: State = {
    deps,
    socket: undefined,
    writer: makeFrameWriter(() => {}),
    upAt: undefined,
    heardAt: performance.now(),
    openedAt: performance.now(),
    failures: 0,
    closed: false,
    retry: undefined,
    beat: undefined,
  };
  state.beat = setInterval(() => checkBeat(state), deps.heartbeatIntervalMs);
  connect(state);
  return {
    send(message) {
      if (state.upAt === undefined || state.socket?.readyState !== WebSocket.OPEN) return false;
      transmit(state, message);
      return true;
    },
    isUp: () => state.upAt !== undefined,
    close: () => close(state),
  };
}

function connect(state: State): void {
  const { deps } = state;
  const socket = new WebSocket(`${deps.address.replace(/^http/, "ws")}/v1/agent/connect`, {
    headers: { authorization: `Bearer ${deps.nodeToken}` },
    handshakeTimeout: HANDSHAKE_WITHIN_MS,
    maxPayload: INCOMING_BYTES_MAX,
    perMessageDeflate: false,
  });
  state.socket = socket;
  state.writer = makeFrameWriter((frame) => {
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(frame, (error) => {
      if (error) deps.log.debug({ error: error.message }, "message not sent");
    });
  });
  socket.on("open", () => greet(state));
  socket.on("message", (data) => receiveText(state, String(data)));
  socket.on("unexpected-response", (request, response) => {
    request.destroy();
    if (REFUSING_STATUSES.has(response.statusCode ?? 0)) end(state, "refused");
    else lose(state, socket);
  });
  socket.on("error", (error) => deps.log.debug({ error: error.message }, "connection error"));
  socket.on("close", () => lose(state, socket));
}

/** The frame that opens a connection has its limit too: a node that holds more names the rest in a heartbeat, right behind it. */
function greet(state: State): void {
  state.openedAt = performance.now();
  const holding = state.deps.holding();
  transmit(state, { type: "hello", holding: holding.slice(0, HELLO_HOLDING_MAX) });
  if (holding.length > HELLO_HOLDING_MAX) transmit(state, state.deps.heartbeat());
}

function lose(state: State, from: WebSocket): void {
  if (from !== state.socket) return;
  state.socket = undefined;
  if (state.upAt !== undefined) {
    state.deps.log.warn("connection lost");
    if (performance.now() - state.upAt > STEADY_AFTER_MS) state.failures = 0;
  }
  state.upAt = undefined;
  if (state.closed) return;
  const waitMs = backoffMs(state.failures, RECONNECT_BASE_MS, RECONNECT_CAP_MS);
  state.failures += 1;
  state.retry = setTimeout(() => connect(state), waitMs);
}

function checkBeat(state: State): void {
  const { deps, socket } = state;
  if (performance.now() - state.heardAt > deps.abandonedAfterMs) end(state, "abandoned");
  if (socket?.readyState !== WebSocket.OPEN || state.closed) return;
  const silentMs = performance.now() - Math.max(state.heardAt, state.openedAt);
  if (silentMs > SILENT_HEARTBEATS_MAX * deps.heartbeatIntervalMs) {
    deps.log.warn({ silentMs: Math.round(silentMs) }, "no heartbeat was answered; opening another connection");
    socket.terminate();
    lose(state, socket);
  } else if (state.upAt !== undefined) {
    transmit(state, deps.heartbeat());
  }
}

function receiveText(state: State, text: string): void {
  for (const one of messagesOfFrame(parseJson(text))) {
    const message = ToNode.safeParse(one);
    if (message.success) receive(state, message.data);
    else state.deps.log.error({ issue: message.error.issues[0]?.message }, "not a message of the control plane's");
  }
}

function receive(state: State, message: ToNode): void {
  state.heardAt = performance.now();
  if (message.type === "welcome") state.upAt = state.heardAt;
  state.deps.onMessage(message);
}

function transmit(state: State, message: FromNode): void {
  if (state.writer.write(message)) return;
  state.deps.api.sendMessages([message]).then(
    (answers) => {
      for (const answer of answers) receive(state, answer);
    },
    (error: Error) => {
      state.deps.log.warn({ type: message.type, error: error.message }, "large message not sent yet");
      if (error instanceof RefusedError && error.final && !REFUSING_STATUSES.has(error.status))
        state.deps.onRefused(message, error);
    },
  );
}

function end(state: State, how: ConnectionEnd): void {
  if (state.closed) return;
  close(state);
  state.deps.onEnd(how);
}

function close(state: State): void {
  state.closed = true;
  state.upAt = undefined;
  clearInterval(state.beat);
  clearTimeout(state.retry);
  state.writer.flush();
  state.socket?.close(1000);
}
