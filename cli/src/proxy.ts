import * as http from "node:http";
import { CliError } from "./cli-error.ts";
import { EXIT } from "./exit-codes.ts";

const PROXY_NAMES = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"];
const EXCEPTION_NAMES = ["no_proxy", "NO_PROXY"];
const LOOPBACK_HOSTS = new Set(["localhost", "127.0.0.1", "[::1]"]);
/** The first Node that can be told of a proxy at run time. */
const PROXY_NODE_MIN = "24.14, 25.4";

type Env = Readonly<Record<string, string | undefined>>;
/** What of Node makes fetch go through a proxy; older ones do not have it. */
type Node = Partial<Pick<typeof http, "setGlobalProxyFromEnv">>;

/** HTTP_PROXY, HTTPS_PROXY and NO_PROXY count, but for a server on this machine. */
export function useProxyOfEnvironment(address: string, env: Env, node: Node = http): void {
  if (LOOPBACK_HOSTS.has(new URL(address).hostname)) return;
  const proxies = textsOf(env, PROXY_NAMES).map(([name, text]) => [name, withScheme(text)] as const);
  const names = proxies.flatMap(([name, text]) => (text === "" ? [] : [name])).join(" or ");
  if (names === "") return;
  if (node.setGlobalProxyFromEnv === undefined) {
    throw notConfigured(
      `a proxy, which is set by ${names}, needs Node ${PROXY_NODE_MIN} or newer, and this is Node ${process.versions.node}`,
      `unset ${names} where the server can be reached without a proxy`,
    );
  }
  try {
    node.setGlobalProxyFromEnv(Object.fromEntries([...proxies, ...textsOf(env, EXCEPTION_NAMES)]));
  } catch {
    // Neither the value nor Node's message, which holds it: there may be a password in it.
    throw notConfigured(`${names} is not the address of a proxy`, "it looks like http://proxy.example.com:3128");
  }
}

function textsOf(env: Env, names: readonly string[]): [name: string, text: string][] {
  return names.flatMap((name): [string, string][] => {
    const text = env[name];
    return text === undefined ? [] : [[name, text.trim()]];
  });
}

/** curl and pip take `proxy.example.com:3128`, so that many environments have it in this form; Node does not take it. */
function withScheme(text: string): string {
  return text === "" || text.includes("://") ? text : `http://${text}`;
}

function notConfigured(detail: string, hint: string): CliError {
  return new CliError("not_configured", EXIT.noServer, detail, { hint });
}
