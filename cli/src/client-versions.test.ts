import { NEWEST_POLARS, POLARS_RELEASES } from "@frazil/contracts";
import { describe, expect, it } from "vitest";
import { agreeOnVersions } from "./client-versions.ts";
import { readOrigin, sqlOrigin } from "./plan-bytes.ts";
import { pickleOf, planOf, planWithHash } from "./testing/fake-plans.ts";

const agree = (plans: Buffer[], overrides = {}) =>
  agreeOnVersions(
    plans.map((bytes, index) => readOrigin(bytes, `plan${index}.bin`)),
    overrides,
    "/work",
  );
const listCodes = (minor: number) => Buffer.from([0, minor, 7, 0xcc, 0x80, 4, 0xcc, 0x95]);

describe("versions of a submission", () => {
  it("come from the plan's header", () => {
    expect(agree([planOf("2.0.0")])).toMatchObject({ polars: "2.0.0", hasPython: false, cwd: "/work" });
  });

  it("are the newest of the releases that share a header", () => {
    const shared = POLARS_RELEASES.filter(({ schemaHash }) => schemaHash === POLARS_RELEASES[0]?.schemaHash);
    expect(shared.length).toBeGreaterThan(1);
    expect(agree([planOf(shared[0]?.version ?? "")]).polars).toBe(shared.at(-1)?.version);
  });

  it("of SQL alone are the newest known, unless asked otherwise", () => {
    expect(agreeOnVersions([sqlOrigin("a")], {}, "/").polars).toBe(NEWEST_POLARS);
    expect(agreeOnVersions([sqlOrigin("a")], { polars: "2.0.0" }, "/").polars).toBe("2.0.0");
    expect(agreeOnVersions([sqlOrigin("a"), readOrigin(planOf("2.0.0"), "b")], {}, "/").polars).toBe("2.0.0");
  });

  it("must be one: plans of two releases are refused", () => {
    expect(() => agree([planOf("2.0.0"), planOf("2.1.0")])).toThrow(
      "plan0.bin was written by Polars 2.0.0, and plan1.bin by 2.1.0",
    );
    expect(agree([planOf("2.0.0"), planOf("2.1.0")], { polars: "2.1.0" }).polars).toBe("2.1.0");
  });

  it("an unknown header needs --polars, and the known releases are named", () => {
    const strange = planWithHash("0".repeat(64));
    expect(() => agree([strange])).toThrow("plan0.bin was written by a Polars release that is not known here");
    expect(agree([strange], { polars: "9.9.9" }).polars).toBe("9.9.9");
  });

  it("name the Python that pickled functions need", () => {
    expect(agree([planOf("2.1.0", pickleOf(12))])).toMatchObject({ hasPython: true, python: "3.12" });
    expect(agree([planOf("2.1.0", listCodes(10))])).toMatchObject({ hasPython: true, python: "3.10" });
    expect(() => agree([planOf("2.1.0", pickleOf(12)), planOf("2.1.0", pickleOf(11))])).toThrow(
      "plan0.bin holds functions of Python 3.12, and plan1.bin of 3.11",
    );
  });

  it("ask for the Python where a plan does not say", () => {
    const silent = planOf("2.1.0", "cloudpickle");
    expect(() => agree([silent])).toThrow("does not say of which Python");
    expect(agree([silent], { pythonVersion: "3.13" })).toMatchObject({ hasPython: true, python: "3.13" });
  });
});

describe("readOrigin", () => {
  it("refuses what is no plan", () => {
    expect(() => readOrigin(Buffer.from("nonsense"), "x.bin")).toThrow("x.bin is not a Polars plan");
  });
});
