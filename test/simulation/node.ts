import {
  type AttemptRef,
  type FromNode,
  HEARTBEAT_INTERVAL_MS,
  HELLO_HOLDING_MAX,
  type LeaseBatch,
  NODE_MESSAGE_BYTES_MAX,
  type Outcome,
  type Run,
  type RunTemplate,
  type TaskRef,
  type ToNode,
} from "@frazil/contracts";
import type { Process, Scheduler } from "./scheduler.ts";
import { type EndOf, endOf, keysOf, readScript } from "./scripts.ts";
import type { Wire } from "./wire.ts";

type Finished = Extract<FromNode, { type: "finished" }>;
type Staged = Extract<FromNode, { type: "staged" }>;

/** What a node's attempts did where all can see it. */
export interface Witness {
  /** Output became visible in the destination. */
  published(taskId: string, manifest: string): void;
  /** The control plane's answer to a report. */
  recorded(ref: AttemptRef, accepted: boolean): void;
  /** A number that only this attempt's result carries. */
  rowsOf(ref: AttemptRef): number;
}

export interface NodeSurroundings {
  readonly scheduler: Scheduler;
  readonly witness: Witness;
  /** Opens a connection to some replica. Undefined: nobody answers; "refused": the token is no good. */
  connect(process: Process, token: string): Promise<Wire | "refused" | undefined>;
  join(process: Process, joinToken: string): Promise<{ nodeToken: string } | "refused" | undefined>;
  fetchLeases(process: Process, token: string, refs: readonly AttemptRef[]): Promise<LeaseBatch[] | undefined>;
  /** Sends by HTTP what is too large for a message, to some replica. Resolves to its answers. */
  post(process: Process, token: string, message: FromNode): Promise<readonly ToNode[]>;
  /** The agent ends, and its machine with it. */
  leave(): void;
}

export interface SimNode {
  readonly process: Process;
  readonly id: string;
  drain(): void;
  /** The agent is started again on its machine: what ran is gone, outcomes that it kept on disk are not. */
  restart(): void;
  /** Drops the connection; the other side hears of it late, or not at all. */
  disconnect(isCut: boolean): void;
  /** Nothing held, nothing unanswered. */
  isIdle(): boolean;
}

interface Held {
  readonly ref: TaskRef;
  readonly run: Run;
  readonly template: RunTemplate;
  state: "running" | "staged" | "publishing";
  manifest: string | undefined;
}

interface State {
  readonly around: NodeSurroundings;
  readonly process: Process;
  readonly id: string;
  readonly held: Map<string, Held>;
  /** Reports that were not acknowledged. */
  readonly outbox: Map<string, Finished | Staged>;
  token: string | undefined;
  wire: Wire | undefined;
  isWelcome: boolean;
  isDraining: boolean;
  heardMs: number;
  failures: number;
  /** Grows with each start of the agent: work of an earlier one is over. */
  life: number;
}

const SILENT_HEARTBEATS_MAX = 3;
const RESEND_MS = 5_000;
const RECONNECT_MS_MAX = 5_000;
/** An agent that no control plane answers ends itself. */
const ABANDONED_MS = 120_000;
const RUN_MS_MAX = 2_500;
const BOOT_MS_MIN = 500;
const BOOT_MS_MAX = 3_000;
const DRAIN_REFUSE_MS = 1_000;
const BIG_MEMORY = 1_000_000;

const keyOf = ({ taskId, attempt }: AttemptRef) => `${taskId}#${attempt}`;
const refOf = ({ taskId, attempt }: AttemptRef): AttemptRef => ({ taskId, attempt });

/** A node's agent as the product's behaves towards the control plane, with engines that only take time. */
export function startNode(around: NodeSurroundings, process: Process, id: string, joinToken: string): SimNode {
  const state: State = {
    around,
    process,
    id,
    held: new Map(),
    outbox: new Map(),
    token: undefined,
    wire: undefined,
    isWelcome: false,
    isDraining: false,
    heardMs: around.scheduler.nowMs(),
    failures: 0,
    life: 0,
  };
  const inside = (work: () => void) => around.scheduler.inside(process, work);
  inside(() => void boot(state, joinToken));
  return {
    process,
    id,
    drain: () => inside(() => drain(state)),
    restart: () => inside(() => restart(state)),
    disconnect: (isCut) => inside(() => disconnect(state, isCut)),
    isIdle: () => state.held.size === 0 && state.outbox.size === 0,
  };
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function boot(state: State, joinToken: string): Promise<void> {
  const { around, process } = state;
  await sleep(BOOT_MS_MIN + around.scheduler.random.int(BOOT_MS_MAX));
  for (;;) {
    const joined = await around.join(process, joinToken);
    if (joined === "refused") return around.leave();
    if (joined !== undefined) {
      state.token = joined.nodeToken;
      break;
    }
    await sleep(500);
  }
  void beat(state);
  void resend(state);
  void connect(state);
}

async function connect(state: State): Promise<void> {
  const { around, process } = state;
  const { life } = state;
  const wire = await around.connect(process, state.token as string);
  if (life !== state.life) return wire === undefined || wire === "refused" ? undefined : wire.closeFromNode();
  if (wire === "refused") return around.leave();
  if (wire === undefined) return retry(state);
  state.wire = wire;
  wire.onMessageAtNode = (message) => {
    if (state.wire === wire) receive(state, message);
  };
  wire.onClosedAtNode = () => lose(state, wire);
  wire.toReplica({ type: "hello", holding: holding(state).slice(0, HELLO_HOLDING_MAX) });
}

function lose(state: State, wire: Wire): void {
  if (state.wire !== wire) return;
  state.wire = undefined;
  state.isWelcome = false;
  retry(state);
}

function retry(state: State): void {
  const { life } = state;
  const waitMs = Math.min(RECONNECT_MS_MAX, 100 * 2 ** state.failures) * (0.5 + Math.random() / 2);
  state.failures = Math.min(6, state.failures + 1);
  setTimeout(() => {
    if (life === state.life) void connect(state);
  }, waitMs);
}

async function beat(state: State): Promise<void> {
  for (;;) {
    await sleep(HEARTBEAT_INTERVAL_MS);
    const silentMs = state.around.scheduler.nowMs() - state.heardMs;
    if (silentMs > ABANDONED_MS) return state.around.leave();
    const { wire } = state;
    if (wire === undefined) continue;
    if (silentMs > SILENT_HEARTBEATS_MAX * HEARTBEAT_INTERVAL_MS) {
      wire.closeFromNode();
      lose(state, wire);
    } else if (state.isWelcome)
      wire.toReplica({ type: "heartbeat", holding: holding(state), cpuPercent: 1, memoryBytes: BIG_MEMORY });
  }
}

async function resend(state: State): Promise<void> {
  for (;;) {
    await sleep(RESEND_MS);
    for (const message of state.outbox.values()) send(state, message);
  }
}

function holding(state: State): AttemptRef[] {
  return [...[...state.held.values()].map((held) => refOf(held.ref)), ...[...state.outbox.values()].map(refOf)];
}

function send(state: State, message: FromNode): void {
  if (!state.isWelcome) return;
  if (JSON.stringify(message).length > NODE_MESSAGE_BYTES_MAX) void post(state, message);
  else state.wire?.toReplica(message);
}

async function post(state: State, message: FromNode): Promise<void> {
  const { around, life } = state;
  for (const answer of await around.post(state.process, state.token as string, message))
    if (life === state.life) receive(state, answer);
}

function receive(state: State, message: ToNode): void {
  state.heardMs = state.around.scheduler.nowMs();
  switch (message.type) {
    case "welcome":
      state.isWelcome = true;
      state.failures = 0;
      for (const waiting of state.outbox.values()) send(state, waiting);
      break;
    case "lease":
      takeOn(state, message.batch);
      break;
    case "lease_by_reference":
      void fetchLeases(state, message.tasks);
      break;
    case "publish":
      state.outbox.delete(keyOf(message));
      publish(state, state.held.get(keyOf(message)));
      break;
    case "abandon":
      letGo(state, message);
      break;
    case "recorded":
      state.outbox.delete(keyOf(message));
      state.around.witness.recorded(refOf(message), message.accepted);
      break;
    case "cancel":
      for (const ref of message.tasks) cancel(state, ref);
      break;
    case "beat":
      for (const ref of message.lost) letGo(state, ref);
      break;
    case "recall":
      for (const ref of message.tasks) giveBack(state, ref);
      break;
    case "drain":
      drain(state);
      break;
  }
}

function takeOn(state: State, batch: LeaseBatch): void {
  for (const run of batch.runs) {
    for (const ref of run.tasks) {
      const key = keyOf(ref);
      if (state.held.has(key) || state.outbox.has(key)) continue;
      const held: Held = { ref, run, template: batch.template, state: "running", manifest: undefined };
      state.held.set(key, held);
      if (state.isDraining) setTimeout(() => answer(state, held, { kind: "released" }), DRAIN_REFUSE_MS);
      else void carryOut(state, held);
    }
  }
}

async function fetchLeases(state: State, refs: readonly AttemptRef[]): Promise<void> {
  const { around, token, life } = state;
  if (token === undefined) return;
  const batches = await around.fetchLeases(state.process, token, refs);
  if (life !== state.life) return;
  for (const batch of batches ?? []) takeOn(state, batch);
  if (batches !== undefined) return;
  for (const ref of refs) finish(state, ref, { kind: "released" });
}

const isStill = (state: State, held: Held) => state.held.get(keyOf(held.ref)) === held;

async function carryOut(state: State, held: Held): Promise<void> {
  const { ref, run, template } = held;
  send(state, { type: "started", tasks: [refOf(ref)] });
  await sleep(state.around.scheduler.random.int(RUN_MS_MAX));
  if (!isStill(state, held)) return;
  if (run.publish !== null) {
    held.manifest = String(run.publish.manifest.by);
    held.state = "staged";
    return publish(state, held);
  }
  const script = readScript(run.plan as string);
  if (Math.random() < 0.1) send(state, { type: "progress", ...refOf(ref), phase: "working" });
  const end: EndOf = endOf(script, run.kind, ref);
  if (end !== "ok") return answer(state, held, failure(end));
  if (run.kind === "split") return answer(state, held, keysOf(script));
  if (template.output.destination === null) return answer(state, held, success(state, ref));
  held.state = "staged";
  held.manifest = keyOf(ref);
  const staged: Staged = { type: "staged", ...refOf(ref), manifest: { by: held.manifest } };
  state.outbox.set(keyOf(ref), staged);
  send(state, staged);
}

function publish(state: State, held: Held | undefined): void {
  if (held === undefined || held.state !== "staged") return;
  held.state = "publishing";
  setTimeout(() => {
    // An engine that is publishing is not stopped by the loss of its lease.
    if (state.process.isAlive) state.around.witness.published(held.ref.taskId, held.manifest as string);
    if (isStill(state, held)) answer(state, held, success(state, held.ref));
  }, state.around.scheduler.random.int(RUN_MS_MAX));
}

function failure(end: Exclude<EndOf, "ok">): Outcome {
  if (end === "user")
    return { kind: "failed", error: { code: "query_failed", message: "no such column" }, retryable: false };
  const code = end === "storage" ? "storage_failed" : "engine_lost";
  return { kind: "failed", error: { code, message: "not now" }, retryable: true };
}

function success(state: State, ref: AttemptRef): Outcome {
  const rows = state.around.witness.rowsOf(ref);
  const result = { locations: [keyOf(ref)], schema: [], rows, bytes: 1, warnings: [] };
  return { kind: "succeeded", result, head: null };
}

function answer(state: State, held: Held, outcome: Outcome): void {
  if (!isStill(state, held)) return;
  state.held.delete(keyOf(held.ref));
  finish(state, held.ref, outcome);
}

function finish(state: State, ref: AttemptRef, outcome: Outcome): void {
  const usage = outcome.kind === "succeeded" ? { wallMs: 20, cpuMs: 10, peakMemoryBytes: BIG_MEMORY } : null;
  const message: Finished = { type: "finished", ...refOf(ref), outcome, usage, openedPython: false };
  state.outbox.set(keyOf(ref), message);
  send(state, message);
}

function cancel(state: State, ref: AttemptRef): void {
  const held = state.held.get(keyOf(ref));
  if (held === undefined) {
    if (!state.outbox.has(keyOf(ref))) finish(state, ref, { kind: "released" });
    return;
  }
  if (held.state !== "publishing") answer(state, held, { kind: "released" });
}

/** What has not begun is given back. Here any run may not have: nobody can tell. */
function giveBack(state: State, ref: AttemptRef): void {
  const held = state.held.get(keyOf(ref));
  if (held?.state === "running" && Math.random() < 0.5) answer(state, held, { kind: "returned" });
}

function letGo(state: State, ref: AttemptRef): void {
  state.outbox.delete(keyOf(ref));
  state.held.delete(keyOf(ref));
}

function drain(state: State): void {
  if (state.isDraining) return;
  state.isDraining = true;
  void leaveWhenDone(state);
}

const DRAIN_MS_MAX = 20_000;

async function leaveWhenDone(state: State): Promise<void> {
  const { scheduler, leave } = state.around;
  const deadlineMs = scheduler.nowMs() + DRAIN_MS_MAX;
  while ((state.held.size > 0 || state.outbox.size > 0) && scheduler.nowMs() < deadlineMs) await sleep(1_000);
  leave();
}

function restart(state: State): void {
  state.life += 1;
  state.held.clear();
  for (const [key, message] of state.outbox) if (message.type === "staged") state.outbox.delete(key);
  const { wire } = state;
  state.wire = undefined;
  state.isWelcome = false;
  wire?.closeFromNode();
  if (state.token !== undefined) retry(state);
}

function disconnect(state: State, isCut: boolean): void {
  const { wire } = state;
  if (wire === undefined) return;
  if (isCut) {
    // Noticed by the silence that follows.
    wire.cut();
    return;
  }
  wire.closeFromNode();
  lose(state, wire);
}
