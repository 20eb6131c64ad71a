import type { NodeOrder } from "@frazil/infra";

/** What the processes of a simulated installation say to the one that started them. */
export type FromPlane =
  | { readonly kind: "started"; readonly address: string; readonly token: string }
  | { readonly kind: "order"; readonly order: NodeOrder };

/** A node to play, and the control plane that it connects to first. */
export interface Part {
  readonly order: NodeOrder;
  readonly addresses: readonly string[];
}
export type ToNodes =
  | { readonly kind: "play"; readonly part: Part }
  /** Say what was seen since the last time. */
  | { readonly kind: "tell" }
  /** How long each task takes from now on. */
  | { readonly kind: "take"; readonly taskMs: number };
export type FromNodes = { readonly kind: "connected"; readonly nodeId: string } | ({ readonly kind: "seen" } & Seen);

export interface Seen {
  readonly connected: number;
  /** Attempts that a heartbeat said were lost. */
  readonly lost: number;
  readonly reconnects: number;
  /** Milliseconds from a heartbeat to its answer. */
  readonly beatsMs: readonly number[];
  /** When a run of each job first came, on this machine's clock in milliseconds. */
  readonly arrivals: Readonly<Record<string, number>>;
}

/** Milliseconds since the epoch, finer than Date: the same in all processes of a machine but for the clock's adjustments. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
