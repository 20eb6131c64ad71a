import { createHash } from "node:crypto";
import { delimiter, dirname } from "node:path";
import { MARK_VARIABLE } from "./process-tree.ts";

/** What an engine may see of the node's own environment: how to find programs and storage, and the node's own cloud credentials. */
const PASSED_ON = new Set([
  "PATH",
  "HOME",
  "USER",
  "LOGNAME",
  "SHELL",
  "LANG",
  "LANGUAGE",
  "TZ",
  "LD_LIBRARY_PATH",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
  "REQUESTS_CA_BUNDLE",
  "CURL_CA_BUNDLE",
  "HTTP_PROXY",
  "HTTPS_PROXY",
  "NO_PROXY",
  "http_proxy",
  "https_proxy",
  "no_proxy",
]);
const PASSED_ON_PREFIXES = ["LC_", "AWS_", "GOOGLE_", "CLOUDSDK_", "AZURE_", "CUDA_", "NVIDIA_"];
/** The supervisor's own: a user's value of the same name is not taken. */
const OWN_PREFIX = "FRAZIL_";

export interface EngineVariablesInput {
  readonly node: Readonly<Record<string, string | undefined>>;
  readonly user: Readonly<Record<string, string>>;
  /** Interpreter of the engine's environment. */
  readonly python: string;
  readonly engineDir: string;
  readonly tempDir: string;
  /** Home directory where the engine runs as another user than the agent. */
  readonly homeDir: string | undefined;
  readonly threads: number;
  readonly agentPid: number;
  readonly mark: string;
}

/** The whole environment of an engine process. */
export function engineVariables(input: EngineVariablesInput): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const [name, value] of Object.entries(input.node)) {
    if (value !== undefined && isPassedOn(name)) variables[name] = value;
  }
  if (input.homeDir !== undefined) variables.HOME = input.homeDir;
  const binDir = dirname(input.python);
  Object.assign(variables, {
    // Programs that the user's code starts find the environment's own first.
    PATH: variables.PATH === undefined ? binDir : binDir + delimiter + variables.PATH,
    VIRTUAL_ENV: dirname(binDir),
    POLARS_MAX_THREADS: String(input.threads),
    POLARS_TEMP_DIR: input.tempDir,
    PYTHONFAULTHANDLER: "1",
  });
  for (const [name, value] of Object.entries(input.user)) {
    if (!name.startsWith(OWN_PREFIX)) variables[name] = value;
  }
  const userPath = input.user.PYTHONPATH;
  return Object.assign(variables, {
    PYTHONPATH: userPath === undefined || userPath === "" ? input.engineDir : input.engineDir + delimiter + userPath,
    TMPDIR: input.tempDir,
    // The engine asks the kernel to be killed when this process ends, and ends by itself when it already has.
    FRAZIL_PARENT_PID: String(input.agentPid),
    [MARK_VARIABLE]: input.mark,
  });
}

function isPassedOn(name: string): boolean {
  return PASSED_ON.has(name) || PASSED_ON_PREFIXES.some((prefix) => name.startsWith(prefix));
}

/** Two jobs share engines only when this is equal. Empty for no variables: then a pristine engine will do. */
export function hashVariables(user: Readonly<Record<string, string>>): string {
  const entries = Object.entries(user).sort(([left], [right]) => (left < right ? -1 : 1));
  return entries.length === 0 ? "" : createHash("sha256").update(JSON.stringify(entries)).digest("hex");
}
