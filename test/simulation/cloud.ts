import type { Cloud, NodeOrder, OrderAnswer } from "@frazil/infra";
import type { Process, Scheduler } from "./scheduler.ts";

/** A machine as the cloud knows it. */
interface Machine {
  readonly nodeId: string;
  readonly madeMs: number;
  goneMs: number | undefined;
}

/** The cloud's own truth, and what it answers to whom asks. Its calls take their time, fail, and take effect without an answer. */
export interface SimCloud {
  readonly name: string;
  readonly machines: Map<string, Machine>;
  /** Nodes of which a list once said that there is no machine. */
  readonly saidGone: Set<string>;
  seenBy(process: Process): Cloud;
  /** How many of the next orders are refused for want of capacity. */
  refuse(count: number): void;
  /** How many of the next calls throw, after or before they took effect. */
  fail(count: number): void;
  /** The machine is gone: interrupted, or ended by its own agent. */
  end(nodeId: string): void;
  onMade: (order: NodeOrder) => void;
  onDrain: (nodeId: string) => void;
  onGone: (nodeId: string) => void;
  /** How many orders were refused at all. */
  refused: number;
}

export const CLOUD = "local";
/** A machine shows in lists only some time after it was made, but before it can have booted. */
const LIST_LAG_MS_MAX = 500;
const END_MS_MAX = 3_000;

export function makeSimCloud(scheduler: Scheduler): SimCloud {
  const machines = new Map<string, Machine>();
  const itself = scheduler.spawn("cloud");
  let refusals = 0;
  let failures = 0;
  const isAlive = (nodeId: string) => machines.get(nodeId) !== undefined && machines.get(nodeId)?.goneMs === undefined;
  /** Runs a call: it may fail before or after it took effect. */
  const call = <T>(process: Process, label: string, effect: () => T): Promise<T> =>
    scheduler.perform(process, `cloud ${label}`, () => {
      if (failures === 0) return effect();
      failures -= 1;
      if (scheduler.random.chance(0.5)) effect();
      throw new Error("the cloud did not answer");
    });
  const cloud: SimCloud = {
    name: CLOUD,
    machines,
    saidGone: new Set(),
    refuse(count) {
      refusals = count;
    },
    fail(count) {
      failures = count;
    },
    refused: 0,
    end(nodeId) {
      const machine = machines.get(nodeId);
      if (machine === undefined || machine.goneMs !== undefined) return;
      machine.goneMs = scheduler.nowMs();
      scheduler.note(`cloud: ${nodeId.slice(-4)} is gone`);
      cloud.onGone(nodeId);
    },
    onMade: () => undefined,
    onDrain: () => undefined,
    onGone: () => undefined,
    seenBy: (process) => ({
      name: CLOUD,
      refusal: () => undefined,
      createNode: (order) =>
        call(process, `create ${order.nodeId.slice(-4)}`, (): OrderAnswer => {
          if (refusals > 0) {
            refusals -= 1;
            cloud.refused += 1;
            return { kind: "no_capacity", detail: "no capacity" };
          }
          if (!machines.has(order.nodeId)) {
            machines.set(order.nodeId, { nodeId: order.nodeId, madeMs: scheduler.nowMs(), goneMs: undefined });
            cloud.onMade(order);
          }
          return { kind: "made", handle: { machine: order.nodeId } };
        }),
      listAlive: (nodes) =>
        call(process, "list", () => {
          const shown = nodes.filter(({ nodeId }) => {
            const ageMs = scheduler.nowMs() - (machines.get(nodeId)?.madeMs ?? 0);
            return isAlive(nodeId) && (ageMs > LIST_LAG_MS_MAX || scheduler.random.chance(0.9));
          });
          const listed = new Set(shown.map(({ nodeId }) => nodeId));
          for (const { nodeId } of nodes) if (!listed.has(nodeId)) cloud.saidGone.add(nodeId);
          return listed;
        }),
      destroyNode: ({ nodeId }, urgency) =>
        call(process, `${urgency} ${nodeId.slice(-4)}`, () => {
          if (!isAlive(nodeId)) return;
          const endMs = scheduler.random.int(END_MS_MAX);
          // A machine takes its time to end, also by force.
          if (urgency === "force") scheduler.inside(itself, () => setTimeout(() => cloud.end(nodeId), endMs));
          else cloud.onDrain(nodeId);
        }),
      close: async () => undefined,
    }),
  };
  return cloud;
}
