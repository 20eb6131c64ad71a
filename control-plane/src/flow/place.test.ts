import { describe, expect, it } from "vitest";
import { judgeNode } from "./place.ts";

const judge = (
  status: Parameters<typeof judgeNode>[0]["status"],
  silent_seconds: number,
  alive: boolean,
  leaseTtlMs = 15_000,
) => judgeNode({ status, silent_seconds }, alive, leaseTtlMs);

describe("the judgement on a node", () => {
  it("waits a little for a machine that was ordered, and calls one gone that never came to be", () => {
    expect(judge("requested", 9, false)).toBe("serves");
    expect(judge("requested", 11, false)).toBe("gone");
  });

  it("gives a machine that boots two minutes to connect, then ends it", () => {
    expect(judge("requested", 119, true)).toBe("serves");
    expect(judge("requested", 121, true)).toBe("end");
  });

  it("ends a connected node that says nothing for half a minute", () => {
    expect(judge("ready", 0, true)).toBe("serves");
    expect(judge("ready", 29, true)).toBe("serves");
    expect(judge("ready", 31, true)).toBe("end");
  });

  it("waits for as long as two leases, where those last longer", () => {
    expect(judge("ready", 399, true, 200_000)).toBe("serves");
    expect(judge("ready", 401, true, 200_000)).toBe("end");
  });

  it("takes the cloud's word that a machine is gone, whatever we thought of it", () => {
    for (const status of ["ready", "lost", "stopping"] as const) expect(judge(status, 0, false)).toBe("gone");
  });

  it("lets nothing serve that was given up", () => {
    for (const status of ["lost", "stopping", "terminated"] as const) expect(judge(status, 0, true)).toBe("end");
  });
});
