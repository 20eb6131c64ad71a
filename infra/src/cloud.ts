import type { ClusterShape } from "@frazil/contracts";

/** A node to make: everything that its agent needs travels in `environment`. */
export interface NodeOrder {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly workspaceId: string;
  readonly shape: ClusterShape;
  readonly environment: Readonly<Record<string, string>>;
}

/** What a cloud knows its machine by. Plain JSON, kept in the database. */
export type NodeHandle = Readonly<Record<string, unknown>>;

export type OrderAnswer =
  | { readonly kind: "made"; readonly handle: NodeHandle }
  /** Can't be had now; another offer or a later try may do. */
  | { readonly kind: "no_capacity"; readonly detail: string }
  /** Can't be had at all as asked. */
  | { readonly kind: "refused"; readonly detail: string };

/** What every cloud offers to the flow. Calls are idempotent by `nodeId`: an order that is repeated after a crash finds the machine that it made. */
export interface Cloud {
  readonly name: string;
  /** Why this cloud can't serve a shape, in the user's words; undefined when it can. Asked at submission. */
  refusal(shape: ClusterShape): string | undefined;
  createNode(order: NodeOrder): Promise<OrderAnswer>;
  /** Which of these machines exist now. The cloud's word, not our state. */
  listAlive(nodes: readonly { nodeId: string; handle: NodeHandle | null }[]): Promise<Set<string>>;
  /** Asks the machine to end (it drains first). Repeat until `listAlive` no longer has it. `force` ends it at once. */
  destroyNode(node: { nodeId: string; handle: NodeHandle | null }, urgency: "drain" | "force"): Promise<void>;
  /** Ends what would outlive the control plane (processes of this machine). Clouds whose machines live on their own do nothing. */
  close(): Promise<void>;
}
