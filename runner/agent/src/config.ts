import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { HEARTBEAT_INTERVAL_MS, NODE_ENV } from "@frazil/contracts";
import { z } from "zod";

/** `runner/engine/src`, seen from this file in the repository and in an image that keeps the same layout. */
const ENGINE_DIR_DEFAULT = fileURLToPath(new URL("../../engine/src", import.meta.url));

const milliseconds = (fallback: number) => z.coerce.number().int().min(1).default(fallback);

const Environment = z.object({
  [NODE_ENV.address]: z.url({ protocol: /^https?$/ }),
  [NODE_ENV.joinToken]: z.string().min(1).optional(),
  [NODE_ENV.nodeDir]: z.string().min(1),
  [NODE_ENV.cacheDir]: z.string().min(1).optional(),
  [NODE_ENV.engineUser]: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_-]{0,31}$/, "a user name")
    .optional(),
  FRAZIL_ENGINE_DIR: z.string().min(1).default(ENGINE_DIR_DEFAULT),
  FRAZIL_UV: z.string().min(1).optional(),
  FRAZIL_ABANDONED_AFTER_MS: milliseconds(600_000),
  FRAZIL_DRAIN_MS: milliseconds(30_000),
  [NODE_ENV.heartbeatIntervalMs]: milliseconds(HEARTBEAT_INTERVAL_MS),
  FRAZIL_ENGINE_IDLE_MS: milliseconds(600_000),
  FRAZIL_ENGINE_START_MS: milliseconds(60_000),
  FRAZIL_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"]).default("info"),
});

export interface Config {
  readonly address: string;
  readonly joinToken: string | undefined;
  readonly nodeDir: string;
  readonly cacheDir: string;
  readonly engineUser: string | undefined;
  readonly engineDir: string;
  readonly uv: string | undefined;
  /** The node ends itself after this long without a word from the control plane. */
  readonly abandonedAfterMs: number;
  /** How long running tasks may go on after `drain` or SIGTERM. */
  readonly drainMs: number;
  readonly heartbeatIntervalMs: number;
  readonly engineIdleMs: number;
  readonly engineStartMs: number;
  readonly logLevel: string;
}

export class ConfigError extends Error {}

/** Reads the process environment. Throws one error that names every fault. */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const read = Environment.safeParse(env);
  if (!read.success) {
    const faults = read.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    throw new ConfigError(`The node's environment is not valid. ${faults.join("; ")}`);
  }
  const values = read.data;
  const nodeDir = resolve(values.FRAZIL_NODE_DIR);
  return {
    address: values.FRAZIL_ADDRESS.replace(/\/+$/, ""),
    joinToken: values.FRAZIL_JOIN_TOKEN,
    nodeDir,
    cacheDir: resolve(values.FRAZIL_CACHE_DIR ?? join(nodeDir, "cache")),
    engineUser: values.FRAZIL_ENGINE_USER,
    engineDir: resolve(values.FRAZIL_ENGINE_DIR),
    uv: values.FRAZIL_UV,
    abandonedAfterMs: values.FRAZIL_ABANDONED_AFTER_MS,
    drainMs: values.FRAZIL_DRAIN_MS,
    heartbeatIntervalMs: values.FRAZIL_HEARTBEAT_INTERVAL_MS,
    engineIdleMs: values.FRAZIL_ENGINE_IDLE_MS,
    engineStartMs: values.FRAZIL_ENGINE_START_MS,
    logLevel: values.FRAZIL_LOG_LEVEL,
  };
}
