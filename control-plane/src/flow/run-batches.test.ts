import { randomBytes } from "node:crypto";
import { JobSpec, NODE_MESSAGE_BYTES_MAX, type ToNode } from "@frazil/contracts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { makeSealer } from "../domain/seal.ts";
import type { LeasedTask, WorkspaceRow } from "./deps.ts";
import { batchOf, messagesOf, runsOf } from "./run-batches.ts";
import { makeTemplate } from "./templates.ts";

const sealer = makeSealer(randomBytes(32));
const workspace = { id: "ws_a", results_location: "/results", keep_heads: true } as WorkspaceRow;
const templateOf = (env: Record<string, string> = {}) => {
  const spec = JobSpec.parse({
    client: { polars: "2.1.0", python: "3.11" },
    context: { cpus: 2, memoryGiB: 1, env },
  });
  return makeTemplate({ id: "job_a", user_name: "ann" }, spec, workspace);
};

function task(over: Partial<LeasedTask> & { id: string }): LeasedTask {
  return {
    job_id: "job_a",
    mode: "many",
    kind: "query",
    attempt: 1,
    frame: 0,
    ordinal: 0,
    parent_id: null,
    key_path: null,
    key_token: null,
    plan_id: "plan_a",
    plan_kind: "dsl",
    sealed_plan: null,
    split_state: null,
    manifest: null,
    ...over,
  };
}
const key = (id: string, over: Partial<LeasedTask> = {}) =>
  task({ id, mode: "partitioned", kind: "key", parent_id: "task_split", frame: null, ...over });
const idsOf = (runs: readonly { tasks: readonly { taskId: string }[] }[]) =>
  runs.map((run) => run.tasks.map((one) => one.taskId));

describe("runs of leased tasks", () => {
  it("are one per task, on one slot for frames and on all for a single query", () => {
    const frames = runsOf({ sealer }, templateOf(), [task({ id: "a" }), task({ id: "b" })], 4);
    expect(idsOf(frames)).toEqual([["a"], ["b"]]);
    expect(frames.map((run) => run.slots)).toEqual([1, 1]);
    expect(runsOf({ sealer }, templateOf(), [task({ id: "a", mode: "single" })], 4)[0]?.slots).toBe(4);
  });

  it("hold the keys of one search together, but for those of which only the publishing is left", () => {
    const tasks = [key("a"), key("b"), key("c", { parent_id: "task_other" }), key("d", { manifest: { parts: 1 } })];
    const runs = runsOf({ sealer }, templateOf(), tasks, 4);
    expect(idsOf(runs)).toEqual([["a", "b"], ["c"], ["d"]]);
    expect(runs.map((run) => run.publish)).toEqual([null, null, { manifest: { parts: 1 } }]);
  });

  it("carry a small plan opened, for the workspace that sealed it only", () => {
    const plan = Buffer.from("plan bytes");
    const mine = task({ id: "a", sealed_plan: sealer.seal(plan, "ws_a") });
    expect(runsOf({ sealer }, templateOf(), [mine], 1)[0]?.plan).toBe(plan.toString("base64"));
    const other = task({ id: "a", sealed_plan: sealer.seal(plan, "ws_b") });
    expect(() => runsOf({ sealer }, templateOf(), [other], 1)).toThrow();
  });

  it("come with what the search handed on", () => {
    const tasks = [key("a", { split_state: { files: ["x"] } })];
    const template = templateOf();
    const [run] = runsOf({ sealer }, template, tasks, 1);
    if (run === undefined) throw new Error("there is one run");
    expect(batchOf(run, template, tasks).template.splitState).toEqual({ files: ["x"] });
  });
});

const bytesOf = (message: ToNode) => Buffer.byteLength(JSON.stringify(message));
function leasedBy(messages: readonly ToNode[]): string[] {
  return messages.flatMap((message) => {
    if (message.type === "lease") return message.batch.runs.flatMap((run) => run.tasks.map((one) => one.taskId));
    return message.type === "lease_by_reference" ? message.tasks.map((one) => one.taskId) : [];
  });
}

describe("messages of runs", () => {
  it("fit a frame, whatever the plans, names and variables, and lease each task once, in order", () => {
    // Long ones are made of few parts: left to itself, fast-check makes short ones only, and nothing is ever too large.
    const part = fc.tuple(fc.constantFrom("a", "日", "😀", '"', "\\"), fc.nat({ max: 8_000 }));
    const text = fc
      .array(part, { maxLength: 2 })
      .map((parts) => parts.map(([unit, count]) => unit.repeat(count)).join(""));
    const arbitrary = fc.record({
      variable: text,
      frames: fc.array(fc.record({ planBytes: fc.integer({ min: 0, max: 60_000 }) }), { maxLength: 8 }),
      keyPaths: fc.array(text, { maxLength: 4 }),
      splitState: text,
    });
    fc.assert(
      fc.property(arbitrary, ({ variable, frames, keyPaths, splitState }) => {
        const template = templateOf({ VARIABLE: variable });
        const tasks = [
          ...frames.map(({ planBytes }, at) =>
            task({ id: `frame ${at}`, sealed_plan: sealer.seal(Buffer.alloc(planBytes, 1), "ws_a") }),
          ),
          ...keyPaths.map((path, at) => key(`key ${at}`, { key_path: path, key_token: path, split_state: splitState })),
        ];
        const messages = messagesOf(runsOf({ sealer }, template, tasks, 2), template, tasks);
        expect(leasedBy(messages)).toEqual(tasks.map((one) => one.id));
        for (const message of messages) expect(bytesOf(message)).toBeLessThanOrEqual(NODE_MESSAGE_BYTES_MAX);
        for (const message of messages) {
          if (message.type !== "lease") continue;
          const first = tasks.find((one) => one.id === message.batch.runs[0]?.tasks[0]?.taskId);
          expect(message.batch.template.splitState).toEqual(first?.split_state);
        }
      }),
      { numRuns: 50 },
    );
  });

  it("keep the order around a run that is too large for a frame", () => {
    const sizes = [10, 60_000, 10];
    const tasks = sizes.map((bytes, at) =>
      task({ id: `frame ${at}`, sealed_plan: sealer.seal(Buffer.alloc(bytes, 1), "ws_a") }),
    );
    const template = templateOf();
    const messages = messagesOf(runsOf({ sealer }, template, tasks, 2), template, tasks);
    expect(messages.map((message) => message.type)).toEqual(["lease", "lease_by_reference", "lease"]);
    expect(leasedBy(messages)).toEqual(["frame 0", "frame 1", "frame 2"]);
  });

  it("are as few as may be: a hundred small frames go in one", () => {
    const tasks = Array.from({ length: 100 }, (_, at) => task({ id: `frame ${at}` }));
    const template = templateOf();
    expect(messagesOf(runsOf({ sealer }, template, tasks, 2), template, tasks)).toHaveLength(1);
  });

  it.each([
    ["of one byte", "x".repeat(70_000)],
    ["of three bytes", "日".repeat(23_000)],
  ])("name a run that is too large for a frame, instead of carrying it: characters %s", (_, key_path) => {
    const tasks = [key("a", { key_path })];
    const template = templateOf();
    expect(messagesOf(runsOf({ sealer }, template, tasks, 2), template, tasks)).toEqual([
      { type: "lease_by_reference", tasks: [{ taskId: "a", attempt: 1 }] },
    ]);
  });
});
