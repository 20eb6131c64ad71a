import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { FromNode, makeFrameWriter, messagesOfFrame, NODE_MESSAGE_BYTES_MAX, type ToNode } from "@frazil/contracts";
import { type WebSocket, WebSocketServer } from "ws";
import { hashShape } from "../domain/shape.ts";
import type { ConnectedNode } from "../flow/deps.ts";
import { topics } from "../flow/deps.ts";
import type { Link } from "../flow/links.ts";
import { answerNode, type NodeDeps } from "../flow/node-messages.ts";
import { findNode } from "./auth.ts";
import { parseJsonOfNode } from "./body.ts";

const PATH = "/v1/agent/connect";
/** Backpressure: a node that does not read is cut off, and its leases lapse. */
const UNSENT_BYTES_MAX = 64 * 1024 * 1024;
const CLOSED_BY_SERVER = 1012;
const TOKEN_ENDED = 1008;

/** Serves the nodes' connections on the API's own port. */
export function serveAgentSockets(deps: NodeDeps, server: Server): { close(): void } {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: NODE_MESSAGE_BYTES_MAX, perMessageDeflate: false });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on("error", () => undefined);
    void admit(deps, request)
      .then((node) => {
        if (node === undefined) return refuse(socket, "401 Unauthorized");
        sockets.handleUpgrade(request, socket, head, (connection) => {
          void serve(deps, node, connection);
          endWithToken(deps, node, request.headers.authorization, connection);
        });
      })
      .catch((error) => {
        deps.log.error({ err: error }, "could not admit a node");
        refuse(socket, "503 Service Unavailable");
      });
  });
  return {
    close() {
      for (const connection of sockets.clients) connection.close(CLOSED_BY_SERVER, "the control plane is restarting");
      sockets.close();
    },
  };
}

async function admit(deps: NodeDeps, request: IncomingMessage): Promise<ConnectedNode | undefined> {
  if (new URL(request.url ?? "/", "http://node").pathname !== PATH) return undefined;
  return findNode(deps, request.headers.authorization);
}

function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
}

/** A connection ends with the token that opened it. */
function endWithToken(
  deps: NodeDeps,
  node: ConnectedNode,
  authorization: string | undefined,
  connection: WebSocket,
): void {
  const check = () => {
    findNode(deps, authorization).then(
      (known) => known === undefined && connection.close(TOKEN_ENDED, "this node's token is no longer valid"),
      // Without the database nothing of what the node says is kept either.
      (error) => deps.log.warn({ err: error, node: node.id }, "could not look after a node's token"),
    );
  };
  connection.on("close", deps.changes.listen(topics.node(node.id), check));
  // It may have ended while the connection was made.
  check();
}

async function serve(deps: NodeDeps, node: ConnectedNode, connection: WebSocket): Promise<void> {
  const writer = makeFrameWriter<ToNode>((frame) => connection.send(frame));
  const link: Link = {
    nodeId: node.id,
    clusterId: node.cluster_id,
    workspaceId: node.workspace_id,
    shapeHash: hashShape(node.shape),
    slots: node.shape.cpus,
    send(message: ToNode) {
      if (connection.bufferedAmount > UNSENT_BYTES_MAX) return connection.terminate();
      if (writer.write(message)) return;
      // A long list of lost attempts: agents take more than they may send.
      writer.flush();
      connection.send(JSON.stringify(message));
    },
  };
  // A machine that vanished sends no farewell: who says nothing for as long as a lease lasts is cut off, and gets nothing more.
  const silence = setTimeout(() => connection.terminate(), deps.settings.leaseTtlMs);
  connection.on("error", (error) => deps.log.warn({ err: error, node: node.id }, "node connection"));
  connection.on("close", () => {
    clearTimeout(silence);
    deps.dispatcher.disconnect(link);
  });
  connection.on("message", (data, isBinary) => {
    silence.refresh();
    const frame = isBinary ? undefined : parseMessage(String(data));
    for (const one of messagesOfFrame(frame)) {
      const message = FromNode.safeParse(one);
      if (!message.success) {
        deps.log.warn({ node: node.id, issues: message.error.issues.slice(0, 3) }, "a node sent what is not a message");
        return connection.close(1008, "not a message");
      }
      answerNode(deps, node, link, message.data).catch((error) => {
        // The node says it again when it is not answered.
        deps.log.error({ err: error, node: node.id, type: message.data.type }, "could not handle a node's message");
        connection.close(1011, "could not handle a message");
      });
    }
  });
}

function parseMessage(text: string): unknown {
  try {
    return parseJsonOfNode(text, "The message");
  } catch {
    return undefined;
  }
}
