import { homedir } from "node:os";
import { join } from "node:path";
import { z } from "zod";

/** Everything that the control plane reads from its environment. All faults are reported at once, at boot. */
const Environment = z.object({
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, "expected postgresql://user:password@host:port/database"),
  REDIS_URL: z
    .string()
    .regex(/^rediss?:\/\//, "expected redis://host:port")
    .optional(),
  FRAZIL_HOST: z.string().default("127.0.0.1"),
  FRAZIL_PORT: z.coerce.number().int().min(0).max(65_535).default(7420),
  FRAZIL_PORT_FALLBACK: z.enum(["0", "1"]).default("0"),
  FRAZIL_HOME: z.string().default(join(homedir(), ".frazil")),
  FRAZIL_KEY: z.base64().refine((text) => Buffer.from(text, "base64").length === 32, "expected 32 bytes in base64"),
  FRAZIL_PUBLIC_ADDRESS: z.url().optional(),
  FRAZIL_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
  FRAZIL_LEASE_TTL_MS: z.coerce.number().int().min(500).optional(),
  FRAZIL_BOOTSTRAP_WORKSPACE: z.string().min(1).max(100).optional(),
  FRAZIL_BOOTSTRAP_USER: z.string().min(1).max(200).default("admin"),
  FRAZIL_BOOTSTRAP_TOKEN: z.string().optional(),
  FRAZIL_LOCAL_NODES_MAX: z.coerce.number().int().min(1).max(1_000).default(64),
});

export interface Config {
  readonly databaseUrl: string;
  readonly redisUrl: string | undefined;
  readonly host: string;
  readonly port: number;
  /** Take any free port when that one is taken. */
  readonly portFallback: boolean;
  readonly home: string;
  /** The installation's key: plans and secrets at rest are sealed with it. */
  readonly key: Buffer;
  readonly publicAddress: string | undefined;
  readonly logLevel: string;
  readonly leaseTtlMs: number | undefined;
  readonly localNodesMax: number;
  /** Make this workspace at boot, and tell the parent process its token. */
  readonly bootstrap:
    | { readonly workspace: string; readonly user: string; readonly token: string | undefined }
    | undefined;
}

export class ConfigFault extends Error {}

export function readConfig(env: Record<string, string | undefined>): Config {
  const parsed = Environment.safeParse(env);
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `  ${issue.path.join(".")}: ${issue.message}`);
    throw new ConfigFault(`the environment is not complete:\n${faults.join("\n")}`);
  }
  const value = parsed.data;
  return {
    databaseUrl: value.DATABASE_URL,
    redisUrl: value.REDIS_URL,
    host: value.FRAZIL_HOST,
    port: value.FRAZIL_PORT,
    portFallback: value.FRAZIL_PORT_FALLBACK === "1",
    home: value.FRAZIL_HOME,
    key: Buffer.from(value.FRAZIL_KEY, "base64"),
    publicAddress: value.FRAZIL_PUBLIC_ADDRESS,
    logLevel: value.FRAZIL_LOG_LEVEL,
    leaseTtlMs: value.FRAZIL_LEASE_TTL_MS,
    localNodesMax: value.FRAZIL_LOCAL_NODES_MAX,
    bootstrap:
      value.FRAZIL_BOOTSTRAP_WORKSPACE === undefined
        ? undefined
        : {
            workspace: value.FRAZIL_BOOTSTRAP_WORKSPACE,
            user: value.FRAZIL_BOOTSTRAP_USER,
            token: value.FRAZIL_BOOTSTRAP_TOKEN,
          },
  };
}
