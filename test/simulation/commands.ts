import fc from "fast-check";
import type { Asked, Wish } from "./clients.ts";
import { goOn, type Simulated } from "./run.ts";
import type { EndOf } from "./scripts.ts";

/** What a scenario is made of. After each command, things go on for some awaits. */
export type Command =
  | { readonly do: "submit"; readonly wish: Omit<Wish, "key"> }
  | { readonly do: "repeat" | "misuse" | "cancel" | "retry"; readonly job: number }
  | { readonly do: "kill replica"; readonly awaits: number }
  | { readonly do: "freeze replica" | "thaw replica" | "restart replica"; readonly replica: number }
  | { readonly do: "skew clock"; readonly replica: number; readonly ms: number }
  | { readonly do: "end machine" | "freeze node" | "restart agent" | "disconnect" | "cut"; readonly node: number }
  /** Frozen, or cut off, for so long, while the others go on. */
  | {
      readonly do: "stall node" | "part node" | "stall replica";
      readonly at: number;
      readonly ms: number;
      readonly awaits: number;
    }
  | { readonly do: "thaw nodes" | "wipe queue" }
  | { readonly do: "refuse capacity" | "fail cloud" | "cut database"; readonly count: number }
  | { readonly do: "stop cluster"; readonly cluster: number }
  | { readonly do: "pass time"; readonly ms: number };

export interface Act {
  readonly command: Command;
  readonly awaits: number;
}

const ends: fc.Arbitrary<EndOf> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<EndOf>("ok") },
  { weight: 1, arbitrary: fc.constantFrom<EndOf>("user", "flaky", "storage") },
);
const script = fc.record({
  nonce: fc.nat(5),
  split: fc.oneof({ weight: 9, arbitrary: fc.constant<EndOf>("ok") }, { weight: 1, arbitrary: ends }),
  keys: fc.nat(4),
  ends: fc.array(ends, { minLength: 1, maxLength: 3 }),
  isBig: fc.oneof({ weight: 15, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
});
const wish = fc.record({
  user: fc.constantFrom("ada", "bob"),
  mode: fc.constantFrom<Wish["mode"]>("single", "many"),
  isPartitioned: fc.boolean(),
  scripts: fc.array(script, { minLength: 1, maxLength: 4 }),
  hasDestination: fc.boolean(),
  cancelsOnFailure: fc.boolean(),
  attemptsMax: fc.integer({ min: 1, max: 4 }),
  shape: fc.nat(1),
  idleTimeoutSeconds: fc.constantFrom(5, 5, 600),
});

const number = fc.nat(7);
const submit = wish.map(
  (wished): Command => ({
    do: "submit",
    wish: wished.mode === "single" ? { ...wished, scripts: wished.scripts.slice(0, 1) } : wished,
  }),
);
const ofJob = fc.record({ do: fc.constantFrom("repeat", "misuse", "cancel", "cancel", "retry", "retry"), job: number });
const ofReplica = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant("kill replica"), awaits: fc.integer({ min: 1, max: 30 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom("freeze replica", "thaw replica", "restart replica"),
      replica: fc.nat(1),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("skew clock"),
      replica: fc.nat(1),
      ms: fc.constantFrom(-3_600_000, 3_600_000),
    }),
  },
);
const ofNode = fc.oneof(
  fc.record({ do: fc.constantFrom("end machine", "freeze node", "restart agent", "disconnect", "cut"), node: number }),
  fc.constant({ do: "thaw nodes" }),
);
const absence = fc.record({
  do: fc.constantFrom("stall node", "stall node", "part node", "part node", "stall replica"),
  at: number,
  ms: fc.constantFrom(4_000, 16_000, 16_000, 35_000),
  awaits: fc.integer({ min: 5, max: 90 }),
});
const ofWorld = fc.oneof(
  fc.constant({ do: "wipe queue" }),
  fc.record({ do: fc.constant("refuse capacity"), count: fc.integer({ min: 1, max: 2 }) }),
  fc.record({ do: fc.constantFrom("fail cloud", "cut database"), count: fc.integer({ min: 1, max: 4 }) }),
  fc.record({ do: fc.constant("stop cluster"), cluster: fc.nat(3) }),
  fc.record({ do: fc.constant("pass time"), ms: fc.constantFrom(1_000, 6_000, 16_000, 35_000, 70_000) }),
  fc.record({ do: fc.constant("pass time"), ms: fc.constantFrom(1_000, 6_000) }),
);
const command = fc.oneof(
  { weight: 4, arbitrary: submit },
  { weight: 3, arbitrary: ofJob },
  { weight: 4, arbitrary: ofReplica },
  { weight: 2, arbitrary: ofNode },
  { weight: 3, arbitrary: absence },
  { weight: 2, arbitrary: ofWorld },
) as fc.Arbitrary<Command>;
const act = fc.record({ command, awaits: fc.oneof(fc.nat(8), fc.nat(60), fc.nat(150)) });

/** A scenario begins with a submission: without one nothing is at stake. */
export const scenario: fc.Arbitrary<readonly Act[]> = fc
  .tuple(
    fc.record({ command: submit, awaits: fc.nat(120) }),
    fc.array(act, { minLength: 2, maxLength: 14, size: "max" }),
  )
  .map(([first, rest]) => [first, ...rest]);

export async function play(simulated: Simulated, acts: readonly Act[]): Promise<void> {
  for (const { command: next, awaits } of acts) {
    simulated.installation.scheduler.note(`--- ${JSON.stringify(next)}`);
    await carryOut(simulated, next);
    await goOn(simulated, awaits);
  }
}

async function carryOut(simulated: Simulated, next: Command): Promise<void> {
  const { installation, clients, plan } = simulated;
  const { scheduler, world, cloud, nodes, replicas } = installation;
  const jobOf = (at: number) => clients.all[at % clients.all.length] as Asked;
  switch (next.do) {
    case "submit":
      clients.submit({ ...next.wish, key: `key ${clients.all.length}` });
      break;
    case "repeat":
    case "misuse":
    case "cancel":
    case "retry":
      clients[next.do](jobOf(next.job));
      break;
    case "kill replica":
      plan.killIn = next.awaits;
      break;
    case "restart replica":
      installation.restartReplica(next.replica);
      break;
    case "freeze replica":
    case "thaw replica":
    case "skew clock": {
      const { process } = replicas[next.replica] as (typeof replicas)[number];
      if (next.do === "skew clock") process.skewMs = next.ms;
      else process.isFrozen = next.do === "freeze replica";
      break;
    }
    case "wipe queue":
      installation.wipeQueue();
      break;
    case "refuse capacity":
      cloud.refuse(next.count);
      break;
    case "fail cloud":
      cloud.fail(next.count);
      break;
    case "cut database":
      world.cutConnections(next.count);
      break;
    case "stop cluster":
      stopCluster(simulated, next.cluster);
      break;
    case "pass time":
      scheduler.passTime(next.ms);
      break;
    case "stall node":
    case "part node":
    case "stall replica":
      await beAbsent(simulated, next);
      break;
    case "thaw nodes":
      for (const node of nodes.values()) node.process.isFrozen = false;
      break;
    default:
      befall(simulated, next.do, next.node);
  }
}

async function beAbsent(
  simulated: Simulated,
  absence: Extract<Command, { do: "stall node" | "part node" | "stall replica" }>,
): Promise<void> {
  const { scheduler, nodes, replicas } = simulated.installation;
  const alive = [...nodes.values()].filter((node) => node.process.isAlive);
  const node = alive[absence.at % Math.max(1, alive.length)];
  const process = absence.do === "stall replica" ? replicas[absence.at % replicas.length]?.process : node?.process;
  if (process === undefined) return;
  if (absence.do === "part node") node?.disconnect(true);
  else process.isFrozen = true;
  scheduler.passTime(absence.ms, absence.ms);
  await goOn(simulated, absence.awaits);
  process.isFrozen = false;
}

function befall(
  { installation }: Simulated,
  what: "end machine" | "freeze node" | "restart agent" | "disconnect" | "cut",
  at: number,
): void {
  const alive = [...installation.nodes.values()].filter((node) => node.process.isAlive);
  const node = alive[at % Math.max(1, alive.length)];
  if (node === undefined) return;
  if (what === "end machine") installation.cloud.end(node.id);
  if (what === "freeze node") node.process.isFrozen = true;
  if (what === "restart agent") node.restart();
  if (what === "disconnect") node.disconnect(false);
  if (what === "cut") node.disconnect(true);
}

function stopCluster({ installation }: Simulated, at: number): void {
  const { product } = installation;
  void installation.request(async ({ deps }) => {
    const rows = await deps.pool.query<{ id: string }>({ text: "SELECT id FROM clusters ORDER BY id" });
    const row = rows[at % Math.max(1, rows.length)];
    if (row !== undefined) await product.place.stopCluster(deps, row.id);
  });
}
