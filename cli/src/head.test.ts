import { execFileSync } from "node:child_process";
import { tableFromArrays, tableToIPC } from "@uwdata/flechette";
import { beforeAll, describe, expect, it } from "vitest";
import { readHead } from "./head.ts";
import { noPython, PYTHON } from "./testing/python.ts";

const columns = (...names: string[]) => names.map((name) => ({ name, dtype: "x" }));

interface Sent {
  readonly head: string;
  readonly names: readonly string[];
}

/** The heads that an engine would send of frames, written by Polars in one go. Each is Python: a frame, and how it is written. */
function headsOf(frames: readonly string[]): Sent[] {
  const code = `import base64, datetime as d, decimal, io, json, polars as pl
def head(frame, **options):
    out = io.BytesIO()
    frame.write_ipc_stream(out, **options)
    return {"head": base64.b64encode(out.getvalue()).decode(), "names": frame.columns}
print(json.dumps([${frames.map((frame) => `head(${frame})`).join(", ")}]))`;
  return JSON.parse(execFileSync(PYTHON, ["-c", code]).toString());
}
const read = ({ head, names }: Sent) => readHead({ head, schema: columns(...names) }, 20);

describe("readHead", () => {
  it("reads rows as text, as many as wanted", () => {
    const head = Buffer.from(
      tableToIPC(tableFromArrays({ a: [1, 2, 3], b: ["x", null, "z"] }), { format: "stream" }) as Uint8Array,
    ).toString("base64");
    expect(readHead({ head, schema: columns("a", "b") }, 2)).toEqual([
      ["1", "x"],
      ["2", "null"],
    ]);
  });

  it("gives up on what it can't read, and where there is none", () => {
    expect(readHead({ head: Buffer.from("nonsense").toString("base64"), schema: columns("a") }, 2)).toBeUndefined();
    expect(readHead({ head: null, schema: columns("a") }, 2)).toBeUndefined();
    expect(readHead({ head: "", schema: [] }, 2)).toBeUndefined();
  });
});

const CASES: [values: string, shown: string][] = [
  ["pl.Series([1, -2], dtype=pl.Int8)", "1"],
  ["pl.Series([2**63 + 1], dtype=pl.UInt64)", "9223372036854775809"],
  ["[38273.129735, 1.0]", "38273.129735"],
  ["[3.0]", "3.0"],
  ["[1e-7]", "1e-7"],
  ["[float('inf')]", "inf"],
  ["[float('nan')]", "NaN"],
  ["[True]", "true"],
  ["['a longer text, with é and\\n\\x1b[31m in it']", "a longer text, with é and\\n[31m in it"],
  ["[d.date(1950, 1, 1)]", "1950-01-01"],
  ["[d.datetime(2024, 1, 2, 3, 4, 5)]", "2024-01-02 03:04:05"],
  ["[d.datetime(1969, 12, 31, 23, 59, 59, 250)]", "1969-12-31 23:59:59.000250"],
  [
    "pl.Series([d.datetime(2024, 7, 1)], dtype=pl.Datetime('ms', 'UTC')).dt.convert_time_zone('Europe/Amsterdam')",
    "2024-07-01 02:00:00",
  ],
  ["[d.timedelta(days=1, hours=-2, microseconds=5)]", "22h 5µs"],
  ["[d.timedelta(seconds=-90)]", "-1m 30s"],
  ["[d.time(1, 2, 3, 4000)]", "01:02:03.004"],
  ["[decimal.Decimal('-12345678901234567890.05')]", "-12345678901234567890.05"],
  ["[b'ab\\xff\"\\\\']", 'b"ab\\xff\\"\\\\"'],
  ["pl.Series(['x', 'y'], dtype=pl.Categorical)", "x"],
  ["pl.Series(['y'], dtype=pl.Enum(['x', 'y']))", "y"],
  ["[[1, None, 3, 4, 5]]", "[1, null, 3, 4, …]"],
  ["[[d.date(2024, 1, 1)]]", "[2024-01-01]"],
  ["pl.Series([[1.5, 2.0]], dtype=pl.Array(pl.Float64, 2))", "[1.5, 2.0]"],
  ["[{'a': 1, 'b': 'q', 'c': [True]}]", '{1, "q", [true]}'],
  ["pl.Series([None], dtype=pl.Null)", "null"],
];
const OTHERS = [
  'pl.DataFrame({"v": ["x"] * 100, "c": pl.Series(["y"] * 100, dtype=pl.Categorical)}).head(1), compression="zstd"',
  'pl.DataFrame({"v": pl.Series([2**70], dtype=pl.Int128)})',
  'pl.DataFrame({"v": []}, schema={"v": pl.String})',
];

describe.skipIf(noPython)(`heads that Polars wrote${noPython ? ` (skipped: ${noPython})` : ""}`, () => {
  let heads: Sent[];
  beforeAll(() => {
    heads = headsOf([...CASES.map(([values]) => `pl.DataFrame({"v": ${values}})`), ...OTHERS]);
  });
  const other = (index: number) => read(heads[CASES.length + index] as Sent);

  it.each(CASES.map((pair, index) => [...pair, index] as const))("show %s as %s", (_values, shown, index) => {
    expect(read(heads[index] as Sent)?.[0]).toEqual([shown]);
  });

  it("are read when they are compressed with zstd", () => expect(other(0)).toEqual([["x", "y"]]));
  it("are left out where a type is not known", () => expect(other(1)).toBeUndefined());
  it("without rows have none", () => expect(other(2)).toEqual([]));
});
