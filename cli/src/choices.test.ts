import {
  ClusterStatus,
  EngineChoice,
  JobMode,
  JobStatus,
  OutputFormat,
  OutputMode,
  TaskStatus,
} from "@frazil/contracts";
import { expect, it } from "vitest";
import { CLUSTER_STATUSES } from "./commands/clusters.ts";
import { TASK_STATUSES } from "./commands/job.ts";
import { JOB_MODES, JOB_STATUSES } from "./commands/jobs.ts";
import { ENGINES, FORMATS, MODES } from "./job-options.ts";

it.each([
  ["formats", FORMATS, OutputFormat],
  ["modes", MODES, OutputMode],
  ["engines", ENGINES, EngineChoice],
  ["job statuses", JOB_STATUSES, JobStatus],
  ["job modes", JOB_MODES, JobMode],
  ["task statuses", TASK_STATUSES, TaskStatus],
  ["cluster statuses", CLUSTER_STATUSES, ClusterStatus],
] as const)("the %s that options offer are the contract's", (_name, offered, contract) => {
  expect([...offered]).toEqual(contract.options);
});
