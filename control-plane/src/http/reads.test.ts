import { expect, it } from "vitest";
import { makeEndings } from "../flow/endings.ts";
import { type HttpDeps, waitForJob } from "./reads.ts";

const ROW = {
  id: "job_1",
  workspace_id: "ws_1",
  mode: "single",
  status: "running",
  spec: { engine: "auto", output: { format: "ipc", destination: null, mode: "error", options: {} }, partitionBy: null },
  created_at: new Date(0),
  started_at: new Date(0),
  finished_at: null as Date | null,
  revision: 1,
};
const ENDED = { ...ROW, status: "succeeded", finished_at: new Date(1), revision: 2 };

/** Counts how often the database is asked; topics are told by the test. */
function setUp() {
  const listeners = new Map<string, () => void>();
  let looks = 0;
  const deps = {
    endings: makeEndings(),
    changes: {
      next: (topic: string) => new Promise<void>((resolve) => listeners.set(topic, resolve)),
    },
    db: {
      jobs: {
        loadJobOf: async () => {
          looks += 1;
          return { job: ROW, result: null };
        },
      },
    },
  } as unknown as HttpDeps;
  const wait = (isEnough?: (job: { revision: number }) => boolean) =>
    waitForJob(deps, "ws_1", "job_1", { seconds: 10, signal: new AbortController().signal, isEnough });
  return {
    deps,
    wait,
    tell: (topic: string) => listeners.get(topic)?.(),
    looks: () => looks,
    topics: () => [...listeners.keys()],
  };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

it("who waits for a job's end is not woken by what changes before", async () => {
  const { wait, tell, looks, topics, deps } = setUp();
  const answer = wait();
  await turn();
  expect([looks(), topics()]).toEqual([1, ["end:job_1"]]);
  deps.endings.keep({ job: ENDED, result: null } as never);
  tell("end:job_1");
  expect((await answer).status).toBe("succeeded");
  // What ended here a moment ago needs no second look.
  expect(looks()).toBe(1);
});

it("who waits for the next change is", async () => {
  const { wait, topics, tell, looks } = setUp();
  let seen = 0;
  void wait(() => ++seen > 2);
  await turn();
  expect(topics()).toEqual(["job:job_1"]);
  tell("job:job_1");
  await turn();
  expect([looks(), seen]).toEqual([2, 2]);
});

it("a job that ended here is another workspace's secret", async () => {
  const { wait, tell, deps, looks } = setUp();
  void wait();
  await turn();
  deps.endings.keep({ job: { ...ENDED, workspace_id: "ws_2" }, result: null } as never);
  tell("end:job_1");
  await turn();
  expect(looks()).toBe(2);
});
