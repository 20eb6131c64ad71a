import type { FromNode, ToNode } from "@frazil/contracts";
import type { Process, Scheduler } from "./scheduler.ts";

/** One connection between a node and a replica: in order while it lasts, and each side learns of its end at its own time. */
export interface Wire {
  readonly replica: Process;
  toNode(message: ToNode): void;
  toReplica(message: FromNode): void;
  /** A side ends it; the other hears of that later. */
  closeFromNode(): void;
  closeFromReplica(): void;
  /** The network swallows everything from now on, and tells nobody. */
  cut(): void;
  isOpenAtNode(): boolean;
  onMessageAtReplica: (message: FromNode) => void;
  onMessageAtNode: (message: ToNode) => void;
  onClosedAtReplica: () => void;
  onClosedAtNode: () => void;
}

interface Side {
  readonly process: Process;
  isOpen: boolean;
  /** What is on its way to this side. */
  readonly coming: object[];
}

export function openWire(scheduler: Scheduler, node: Process, replica: Process): Wire {
  const atNode: Side = { process: node, isOpen: true, coming: [] };
  const atReplica: Side = { process: replica, isOpen: true, coming: [] };
  let isCut = false;
  const deliver = (to: Side, label: string, arrive: () => void) => {
    if (isCut || !to.process.isAlive) return;
    const place = {};
    to.coming.push(place);
    const answer = () => {
      to.coming.shift();
      if (to.isOpen && !isCut) arrive();
    };
    scheduler.put(
      to.process,
      label,
      () => ({ answer }),
      () => to.coming[0] === place,
    );
  };
  const close = (side: Side, told: () => void) => {
    if (!side.isOpen) return;
    side.isOpen = false;
    told();
  };
  const closeAtNode = () => close(atNode, () => wire.onClosedAtNode());
  const closeAtReplica = () => close(atReplica, () => wire.onClosedAtReplica());
  const wire: Wire = {
    replica,
    toNode(message) {
      if (atReplica.isOpen) deliver(atNode, `receive ${describe(message)}`, () => wire.onMessageAtNode(message));
    },
    toReplica(message) {
      if (atNode.isOpen)
        deliver(atReplica, `receive ${describe(message)} of ${node.name}`, () => wire.onMessageAtReplica(message));
    },
    closeFromNode() {
      close(atNode, () => undefined);
      deliver(atReplica, `see ${node.name} close`, closeAtReplica);
    },
    closeFromReplica() {
      closeAtReplica();
      deliver(atNode, "see the connection close", closeAtNode);
    },
    cut() {
      isCut = true;
    },
    isOpenAtNode: () => atNode.isOpen,
    onMessageAtReplica: () => undefined,
    onMessageAtNode: () => undefined,
    onClosedAtReplica: () => undefined,
    onClosedAtNode: () => undefined,
  };
  replica.onKill.push(() => deliver(atNode, "see the connection break", closeAtNode));
  node.onKill.push(() => deliver(atReplica, `see ${node.name} break`, closeAtReplica));
  return wire;
}

function describe(message: FromNode | ToNode): string {
  const { type } = message;
  if ("taskId" in message) {
    const outcome = "outcome" in message ? ` ${message.outcome.kind}` : "";
    return `${type} ${message.taskId.slice(-4)}#${message.attempt}${outcome}`;
  }
  if (type === "lease")
    return `lease of ${message.batch.runs.flatMap((run) => run.tasks).map((task) => `${task.taskId.slice(-4)}#${task.attempt}`)}`;
  return type;
}
