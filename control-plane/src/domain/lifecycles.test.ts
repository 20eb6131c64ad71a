import { describe, expect, it } from "vitest";
import { CLUSTER, isFinal, JOB, type Lifecycle, NODE, sources, TASK, target } from "./lifecycles.ts";

const all: [string, Lifecycle<string, string>, string][] = [
  ["job", JOB, "queued"],
  ["task", TASK, "queued"],
  ["cluster", CLUSTER, "requested"],
  ["node", NODE, "requested"],
];

function reachable(lifecycle: Lifecycle<string, string>, from: string): Set<string> {
  const seen = new Set([from]);
  for (const status of seen)
    for (const next of Object.values(lifecycle[status] ?? {})) if (next !== undefined) seen.add(next);
  return seen;
}

describe.each(all)("lifecycle of a %s", (_, lifecycle, first) => {
  const statuses = Object.keys(lifecycle);

  it("reaches every status from the first", () => {
    expect([...reachable(lifecycle, first)].sort()).toEqual(statuses.sort());
  });

  it("reaches a final status from every status", () => {
    for (const status of statuses)
      expect([...reachable(lifecycle, status)].some((one) => isFinal(lifecycle, one))).toBe(true);
  });

  it("leads each event to one status, whatever it comes from", () => {
    const events = new Set(statuses.flatMap((status) => Object.keys(lifecycle[status] ?? {})));
    for (const event of events) {
      const targets = new Set(sources(lifecycle, event).map((status) => lifecycle[status]?.[event]));
      expect([...targets]).toEqual([target(lifecycle, event)]);
    }
  });
});

describe("tasks on a node", () => {
  it("can finish, fail and be given back from the same statuses, so that one guard serves a batch", () => {
    const active = sources(TASK, "finish").sort();
    expect(sources(TASK, "requeue").sort()).toEqual(active);
    expect(active.every((status) => sources(TASK, "fail").includes(status))).toBe(true);
  });

  it("can't be cancelled once they are being published", () => {
    expect(TASK.publishing.cancel).toBeUndefined();
  });
});
