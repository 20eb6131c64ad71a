import { JobSpec } from "@frazil/contracts";
import { describe, expect, it } from "vitest";
import type { JobOptions } from "./job-options.ts";
import { makeContext, makeOutput, makeSpec } from "./job-spec.ts";
import { ME } from "./testing/fake-data.ts";

const client = { polars: "2.1.0", python: "3.11", hasPython: false, cwd: "/work" };
const specOf = (options: JobOptions) => makeSpec(options, undefined, client, [], at("/work"));
const at = (cwd: string) => ({ cwd, env: { HOME: "/home/ben" } });
const me = async () => ME;
const noMe = async () => expect.fail("the server must not be asked");

describe("output", () => {
  it("takes the format from the ending, else parquet", () => {
    const formats = [
      "a.parquet",
      "a.csv",
      "a.arrow",
      "a.ndjson",
      "a.jsonl",
      "s3://b/a.CSV?x=1",
      "dir/",
      "s3://b/dir",
    ].map((dst) => makeOutput({ dst }, at("/w"))?.format);
    expect(formats).toEqual(["parquet", "csv", "ipc", "ndjson", "ndjson", "csv", "parquet", "parquet"]);
    expect(makeOutput({ dst: "a.csv", format: "ndjson" }, at("/w"))?.format).toBe("ndjson");
  });

  it("makes paths absolute, keeps the slash at the end, and leaves URLs alone", () => {
    const places = ["out", "out/", "../x.csv", "/abs", "s3://b/k/", "abfss://c@a.dfs.core.windows.net/p"].map(
      (dst) => makeOutput({ dst }, at("/home/ann"))?.destination,
    );
    expect(places).toEqual([
      "/home/ann/out",
      "/home/ann/out/",
      "/home/x.csv",
      "/abs",
      "s3://b/k/",
      "abfss://c@a.dfs.core.windows.net/p",
    ]);
  });

  it("takes ~ for the home, which the shell leaves as it is after =", () => {
    const places = ["~", "~/out", "~/out/", "./~/out", "~ann/out", "s3://b/~/k"].map(
      (dst) => makeOutput({ dst }, at("/w"))?.destination,
    );
    expect(places).toEqual(["/home/ben", "/home/ben/out", "/home/ben/out/", "/w/~/out", "/w/~ann/out", "s3://b/~/k"]);
  });

  it("is left to the server where nothing is asked for", () => {
    expect(makeOutput({}, at("/w"))).toBeUndefined();
    expect(makeOutput({ format: "csv" }, at("/w"))).toEqual({ format: "csv" });
    expect(() => makeOutput({ mode: "append" }, at("/w"))).toThrow("--mode is for --dst");
    expect(() => makeOutput({ dst: "" }, at("/w"))).toThrow("--dst is empty");
  });
});

describe("context", () => {
  it("is the workspace's default where no option of it is given", async () => {
    expect(await makeContext({}, noMe)).toBeUndefined();
  });

  it("takes what is not said of the machines from the default", async () => {
    expect(await makeContext({ env: { A: "1" }, package: ["numpy"] }, me)).toEqual({
      cpus: 2,
      memoryGiB: 4,
      env: { A: "1" },
      packages: ["numpy"],
    });
    expect(await makeContext({ cpus: 8, idleTimeout: 90_500 }, me)).toMatchObject({
      cpus: 8,
      memoryGiB: 4,
      idleTimeoutSeconds: 91,
    });
  });

  it("asks nobody where all is said", async () => {
    expect(await makeContext({ cpus: 8, memory: 16 }, noMe)).toEqual({ cpus: 8, memoryGiB: 16 });
  });
});

describe("spec", () => {
  it("holds only what was asked for", () => {
    expect(specOf({})).toEqual({ client });
  });

  it("says every option in the contract's words", () => {
    const spec = specOf({
      name: "n",
      label: { a: "b" },
      engine: "streaming",
      onFailure: "cancel",
      priority: 70,
      timeout: 60_000,
      retries: 0,
      seed: 7,
    });
    expect(JobSpec.parse(spec)).toMatchObject({
      name: "n",
      labels: { a: "b" },
      engine: "streaming",
      onFailure: "cancel",
      priority: 70,
      timeoutMs: 60_000,
      attemptsMax: 1,
      seed: 7,
    });
  });

  it("names the option that does not fit the contract", () => {
    expect(() => specOf({ timeout: 1 })).toThrow(/^--timeout: /);
    expect(() => specOf({ cluster: "cl_x" })).toThrow(/^--cluster: /);
    expect(() => specOf({ label: { a: "x".repeat(300) } })).toThrow(/^--label: /);
    expect(() => specOf({ maxKeys: 3 })).toThrow("--max-keys is for --partition-by");
  });
});
