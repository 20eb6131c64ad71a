import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { startTestControlPlane, type TestControlPlane } from "../harness/control-plane.ts";
import { failed, succeeded } from "../harness/submissions.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const DOCUMENT = join(ROOT, "contracts", "openapi.json");
const PROGRAM = join(ROOT, ".venv", "bin", "schemathesis");
const SEED = "20261127";
const EXAMPLES = "5";
const CALLS_MIN = 50;
const WITHIN_MS = 240_000;
/** Nobody may wait long here for what does not come. */
const WAITS = `
[parameters]
"query.timeout" = 0.1
"query.wait" = 0.1
`;

let test: TestControlPlane;
let folder: string;
const ids = { job: "", cluster: "" };
beforeAll(async () => {
  test = await startTestControlPlane();
  folder = mkdtempSync(join(tmpdir(), "frazil-answers-"));
  const warm = await test.warmCluster();
  const { job, task } = await warm.submitAndTake({ partitionBy: { keys: [{ name: "day" }] } });
  await warm.node.finish(task, failed("invalid_key", "there is no column day", false, { type: "ColumnNotFoundError" }));
  const one = await warm.submitAndTake();
  await warm.node.finish(one.task, succeeded());
  Object.assign(ids, { job: job.id, cluster: warm.clusterId });
  // Whatever else is asked for is not to be had, so that every job that is made ends.
  test.cloud.answerOrder = () => ({ kind: "no_capacity", detail: "sold out" });
});
afterAll(async () => {
  rmSync(folder, { recursive: true });
  await test.close();
});

/** The things that are there stand in for those that are asked for by id. */
const OF_WHAT_IS_THERE = () => `
[[operations]]
include-path-regex = "^/v1/jobs/"
parameters = { "path.id" = "${ids.job}" }

[[operations]]
include-path-regex = "^/v1/clusters/"
parameters = { "path.id" = "${ids.cluster}" }
`;

/** What schemathesis has to say against the answers; nothing, if they are as documented. */
function complaints(phases: readonly string[], settings = ""): Promise<string> {
  const config = join(folder, "schemathesis.toml");
  writeFileSync(config, WAITS + settings);
  const args = [
    ...["--config-file", config, "run", DOCUMENT, "--url", test.address, "--no-color"],
    ...["--header", `Authorization: Bearer ${test.api.token}`, "--phases", phases.join(",")],
    ...["--max-examples", EXAMPLES, "--seed", SEED, "--workers", "1", "--continue-on-failure"],
    ...["--request-timeout", "20", "--suppress-health-check", "all"],
    // What a request means is checked beyond its form: 422 says what is wrong with it.
    ...["--exclude-checks", "positive_data_acceptance"],
  ];
  return new Promise((resolve) => {
    const options = { cwd: folder, timeout: WITHIN_MS, maxBuffer: 64 * 1024 * 1024 };
    execFile(PROGRAM, args, options, (error, stdout, stderr) => {
      // A run that called nothing found nothing.
      const called = Number(/(\d+) generated/.exec(stdout)?.[1] ?? 0);
      const isFine = error === null && called >= CALLS_MIN;
      resolve(isFine ? "" : `${called} calls\n${stdout}${stderr}\n${error?.message ?? ""}`);
    });
  });
}

it(
  "every answer, to what the document allows and to what it does not, is one that the document names",
  async () => {
    expect(await complaints(["coverage", "stateful"])).toBe("");
  },
  WITHIN_MS,
);

it(
  "so is every answer about a job and a cluster that are there",
  async () => {
    expect(await complaints(["fuzzing"], OF_WHAT_IS_THERE())).toBe("");
  },
  WITHIN_MS,
);
