import type { Cloud, NodeOrder, OrderAnswer } from "@frazil/infra";
import { waitUntil } from "./wait-until.ts";

/** A cloud without machines: it notes what it is asked for, and a test says what it answers and which machines are there. */
export interface FakeCloud extends Cloud {
  readonly orders: NodeOrder[];
  readonly destroyed: { readonly nodeId: string; readonly urgency: "drain" | "force" }[];
  /** Machines that exist. */
  readonly alive: Set<string>;
  /** Answers an order instead of making the machine; may throw, as a cloud's SDK does. */
  answerOrder: ((order: NodeOrder) => OrderAnswer | undefined | Promise<OrderAnswer | undefined>) | undefined;
  /** Called when a machine was made. */
  onMade: ((order: NodeOrder) => void) | undefined;
  /** Why shapes are refused. */
  refusalText: string | undefined;
  /** Whether machines go away when they are asked to drain. */
  drainsAtOnce: boolean;
  /** The machine is gone, as after a spot interruption. */
  lose(nodeId: string): void;
  /** The order with this number (from 0), of all or of one cluster, once it was made. */
  order(number: number): Promise<NodeOrder>;
  orderOf(clusterId: string, number: number): Promise<NodeOrder>;
}

export function makeFakeCloud(name = "local"): FakeCloud {
  const cloud: FakeCloud = {
    name,
    orders: [],
    destroyed: [],
    alive: new Set(),
    answerOrder: undefined,
    onMade: undefined,
    refusalText: undefined,
    drainsAtOnce: true,
    lose: (nodeId) => void cloud.alive.delete(nodeId),
    order: (number) => waitUntil(`node ${number} is ordered`, () => cloud.orders[number]),
    orderOf: (clusterId, number) =>
      waitUntil(
        `node ${number} of ${clusterId} is ordered`,
        () => cloud.orders.filter((order) => order.clusterId === clusterId)[number],
      ),
    refusal: () => cloud.refusalText,
    async createNode(order) {
      const answer = await cloud.answerOrder?.(order);
      if (answer !== undefined) return answer;
      if (!cloud.alive.has(order.nodeId)) {
        cloud.alive.add(order.nodeId);
        cloud.orders.push(order);
        cloud.onMade?.(order);
      }
      return { kind: "made", handle: { machine: order.nodeId } };
    },
    async listAlive(nodes) {
      return new Set(nodes.map((node) => node.nodeId).filter((nodeId) => cloud.alive.has(nodeId)));
    },
    async destroyNode({ nodeId }, urgency) {
      cloud.destroyed.push({ nodeId, urgency });
      if (urgency === "force" || cloud.drainsAtOnce) cloud.alive.delete(nodeId);
    },
    async close() {},
  };
  return cloud;
}
