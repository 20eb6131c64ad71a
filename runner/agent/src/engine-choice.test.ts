import { expect, test } from "vitest";
import { chooseEngine, chooseEvictions, choosePristine, type EngineFacts, mustRetire } from "./engine-choice.ts";

const MIB = 1024 * 1024;
const need = { environmentKey: "polars-2.1", threads: 4, variablesHash: "", workspaceId: "ws_1", user: "ada" };

function engine(facts: Partial<EngineFacts> = {}): EngineFacts {
  return {
    environmentKey: "polars-2.1",
    threads: 4,
    variablesHash: "",
    workspaceId: "ws_1",
    user: null,
    state: "idle",
    idleAt: 100,
    memoryBytes: 50 * MIB,
    ...facts,
  };
}

test.each([
  ["another workspace", { workspaceId: "ws_2" }],
  ["another user, after Python", { user: "bob" }],
  ["other environment variables", { variablesHash: "abc" }],
  ["another environment", { environmentKey: "polars-2.0" }],
  ["another number of threads", { threads: 1 }],
  ["a run under way", { state: "busy" }],
  ["a start for somebody else", { state: "starting", workspaceId: "ws_1" }],
  ["a run that waits for its end", { state: "promised" }],
  ["an end", { state: "ended" }],
] as const)("an engine with %s is not taken", (_what, facts) => {
  expect(chooseEngine([engine(facts)], need)).toBeUndefined();
});

test("the engine used last is preferred, then a pristine one, one that is about to be idle, one that starts for nobody", () => {
  const [older, newer] = [engine({ idleAt: 10 }), engine({ idleAt: 20, user: "ada" })];
  const pristine = engine({ workspaceId: null, idleAt: 999 });
  const starting = engine({ workspaceId: null, state: "starting" });
  const finishing = engine({ state: "finishing" });
  expect(chooseEngine([starting, finishing, pristine, older, newer], need)).toBe(newer);
  expect(chooseEngine([starting, finishing, pristine], need)).toBe(pristine);
  expect(chooseEngine([starting, finishing], need)).toBe(finishing);
  expect(chooseEngine([starting], need)).toBe(starting);
});

const limits = { idleEnginesMax: 3, idleMemoryBytesMax: 1_000 * MIB, threadShareBytes: 250 * MIB, idleMs: 1_000 };

test("idle engines go when they are old, too many, or too large, the least recently used first", () => {
  const engines = [40, 10, 30, 20].map((idleAt) => engine({ idleAt }));
  expect(chooseEvictions(engines, limits, 50).map((one) => one.idleAt)).toEqual([10]);
  expect(chooseEvictions(engines, limits, 1_020).map((one) => one.idleAt)).toEqual([10, 20]);
  const grown = engine({ memoryBytes: 501 * MIB, idleAt: 49 });
  expect(chooseEvictions([engine(), grown], limits, 50)).toEqual([grown]);
  const heavy = [1, 2, 3].map((idleAt) => engine({ idleAt, memoryBytes: 400 * MIB }));
  expect(chooseEvictions(heavy, limits, 50).map((one) => one.idleAt)).toEqual([1]);
});

test("a busy engine is never evicted", () => {
  expect(chooseEvictions([engine({ state: "busy", memoryBytes: 5_000 * MIB, idleAt: 0 })], limits, 1e9)).toEqual([]);
});

test("an engine is replaced when it keeps more than half of a run's memory, or has served long", () => {
  const facts = { runs: 1, runsMax: 100, memoryBytes: 50 * MIB, shareBytes: 100 * MIB };
  expect(mustRetire(facts)).toBe(false);
  expect(mustRetire({ ...facts, memoryBytes: 51 * MIB })).toBe(true);
  expect(mustRetire({ ...facts, runs: 100 })).toBe(true);
});

test("engines are started in advance for what was used lately and has none, as far as a quarter of the memory goes", () => {
  const use = (key: string, threads: number, usedAt: number) => ({
    environment: { key, python: "/p" },
    threads,
    usedAt,
  });
  const recent = [use("polars-2.1", 4, 10), use("polars-2.1", 1, 20), use("polars-2.0", 4, 30)];
  const chosen = (memoryMiB: number, engines: EngineFacts[] = [], now = 40) =>
    choosePristine(engines, recent, { memoryMiB, idleMs: 1_000 }, now).map((one) => one.usedAt);
  expect(chosen(2_048)).toEqual([30, 20, 10]);
  expect(chosen(1_024)).toEqual([30, 20]);
  expect(chosen(511)).toEqual([]);
  expect(chosen(2_048, [engine({ workspaceId: null, state: "starting" })])).toEqual([30, 20]);
  expect(chosen(2_048, [engine({ workspaceId: "ws_1" })])).toEqual([30, 20, 10]);
  expect(chosen(2_048, [], 1_025)).toEqual([30]);
});
