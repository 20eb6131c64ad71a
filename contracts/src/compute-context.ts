import { z } from "zod";
import {
  CLUSTER_SIZE_MAX,
  CPUS_MAX,
  IDLE_TIMEOUT_DEFAULT_SECONDS,
  IDLE_TIMEOUT_MAX_SECONDS,
  MEMORY_GIB_MAX,
} from "./limits.ts";

/** The machines a user asks for. Two contexts with the same shape share a warm cluster. */
export const ClusterShape = z.strictObject({
  cloud: z.string().min(1).max(64),
  cpus: z.int().min(1).max(CPUS_MAX).describe("Cores, and so task slots, of each node."),
  memoryGiB: z.number().positive().max(MEMORY_GIB_MAX).describe("Memory of each node in GiB."),
  gpus: z.int().min(0).max(16).default(0),
  clusterSize: z.int().min(1).max(CLUSTER_SIZE_MAX).default(1).describe("Number of nodes."),
});
export type ClusterShape = z.infer<typeof ClusterShape>;

const EnvName = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, "an environment variable name");

/** What the engine needs on top of Polars. It does not decide which cluster serves a job. */
export const EngineEnvironment = z.strictObject({
  packages: z.array(z.string().min(1).max(300)).max(200).default([]).describe("PEP 508 requirements for user code."),
  env: z
    .record(EnvName, z.string().max(32_768))
    .default({})
    .describe("Environment variables of the engine; kept encrypted."),
});
export type EngineEnvironment = z.infer<typeof EngineEnvironment>;

export const ComputeContext = ClusterShape.extend({
  cloud: z.string().min(1).max(64).optional().describe("Default: the cloud of the workspace's default context."),
  ...EngineEnvironment.shape,
  idleTimeoutSeconds: z.int().min(5).max(IDLE_TIMEOUT_MAX_SECONDS).default(IDLE_TIMEOUT_DEFAULT_SECONDS),
});
export type ComputeContext = z.infer<typeof ComputeContext>;
