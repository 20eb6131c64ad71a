import { describe, expect, it } from "vitest";
import { type LimitState, noteYielded, rivalId, rivalsInTurn, YIELD_PATIENCE_MS } from "./limits.ts";

const RIVAL = { clusterId: "cl_theirs", user: "bob", priority: 50, waitedMs: 10, running: 1, taken: 7 };
const MINE = "cl_mine";

function looks() {
  const state: LimitState = { limited: new Map(), yieldedAtMs: new Map(), yieldedTo: new Map() };
  return {
    isInTurn: (nowMs: number, rival = RIVAL) => rivalsInTurn(state, MINE, [rival], nowMs).length === 1,
    look: (nowMs: number, over: { hasTaken?: boolean; yields?: boolean; rivals?: (typeof RIVAL)[] } = {}) =>
      noteYielded(state, MINE, {
        hasTaken: over.hasTaken ?? false,
        yieldedTo: over.yields === true ? [rivalId(RIVAL)] : [],
        rivals: over.rivals ?? [RIVAL],
        nowMs,
      }),
    state,
  };
}

describe("what a cluster left to another of the workspace's limit", () => {
  it("is theirs for a while, however often it looks and whatever it takes meanwhile", () => {
    const { isInTurn, look } = looks();
    look(0, { yields: true, hasTaken: true });
    for (let nowMs = 10; nowMs < YIELD_PATIENCE_MS; nowMs += 10) {
      expect(isInTurn(nowMs)).toBe(true);
      look(nowMs, { yields: true, hasTaken: true });
    }
  });

  it("is not left any longer when they do not come for it, until this one has taken it", () => {
    const { isInTurn, look } = looks();
    look(0, { yields: true });
    expect(isInTurn(YIELD_PATIENCE_MS)).toBe(false);
    look(YIELD_PATIENCE_MS);
    expect(isInTurn(2 * YIELD_PATIENCE_MS)).toBe(false);
    look(2 * YIELD_PATIENCE_MS, { hasTaken: true });
    expect(isInTurn(2 * YIELD_PATIENCE_MS)).toBe(true);
  });

  it("is theirs anew once they took something", () => {
    const { isInTurn, look } = looks();
    look(0, { yields: true });
    expect(isInTurn(YIELD_PATIENCE_MS, { ...RIVAL, taken: 8 })).toBe(true);
  });

  it("is forgotten with them", () => {
    const { look, state } = looks();
    look(0, { yields: true });
    look(1, { rivals: [] });
    expect(state.yieldedTo.size).toBe(0);
  });
});
