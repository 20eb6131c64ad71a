import { SubmitLine } from "@frazil/contracts";
import { describe, expect, it } from "vitest";
import type { Frame } from "./queries.ts";
import { encodeLines, measureSubmission, submissionLines } from "./submission.ts";

const spec = { client: { polars: "2.1.0", python: "3.11" } };
const sql = (text: string): Frame => ({ name: text, plan: { kind: "sql", text } });

async function sent(frames: Iterable<Frame>): Promise<SubmitLine[]> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of encodeLines(submissionLines(spec, frames))) chunks.push(chunk);
  const lines = Buffer.concat(chunks).toString().trimEnd().split("\n");
  return lines.map((line) => SubmitLine.parse(JSON.parse(line)));
}

/** What the server makes of the lines: the plan of each frame. */
function plansOf(lines: readonly SubmitLine[]): string[] {
  const plans = new Map<number, string>();
  const frames: string[] = [];
  for (const line of lines) {
    if (line.line === "plan") plans.set(line.number, line.plan.kind === "sql" ? line.plan.text : line.plan.data);
    // A plan must have come before the frames that use it.
    if (line.line === "frames") frames.push(...line.plans.map((number) => plans.get(number) ?? "missing"));
  }
  return frames;
}

describe("a streamed submission", () => {
  it("begins with the spec, has each distinct plan once, and all frames in order", async () => {
    const texts = ["a", "b", "a", "a", "c", "b"];
    const lines = await sent(texts.map(sql));
    expect(lines[0]).toMatchObject({ line: "header", spec: { client: { polars: "2.1.0" } } });
    expect(lines.filter(({ line }) => line === "plan")).toHaveLength(3);
    expect(plansOf(lines)).toEqual(texts);
  });

  it("tells SQL from a plan with the same characters", async () => {
    const data = Buffer.from("abc").toString("base64");
    const lines = await sent([sql(data), { name: "p", plan: { kind: "dsl", data } }]);
    expect(lines.filter(({ line }) => line === "plan")).toHaveLength(2);
  });

  it("holds thousands of frames", async () => {
    const texts = Array.from({ length: 10_000 }, (_, index) => `q${index % 7_001}`);
    expect(plansOf(await sent(texts.map(sql)))).toEqual(texts);
  });
});

describe("measureSubmission", () => {
  it("counts frames, distinct plans and their bytes", () => {
    expect(measureSubmission([sql("ab"), sql("€"), sql("ab")])).toEqual({ frames: 3, plans: 2, bytes: 5 });
  });

  it("refuses none, and more than a job may have", () => {
    expect(() => measureSubmission([])).toThrow("no query");
    const endless = {
      *[Symbol.iterator]() {
        while (true) yield sql("x");
      },
    };
    expect(() => measureSubmission(endless, 1_000)).toThrow("1,000 tasks");
  });
});
