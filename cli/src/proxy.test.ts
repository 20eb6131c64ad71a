import { describe, expect, it, vi } from "vitest";
import type { CliError } from "./cli-error.ts";
import { useProxyOfEnvironment } from "./proxy.ts";

const ADDRESS = "https://frazil.example.com";

/** What Node is told of proxies; undefined when it is told nothing. */
function toldNode(address: string, env: Record<string, string>): unknown {
  const setGlobalProxyFromEnv = vi.fn(() => () => {});
  useProxyOfEnvironment(address, env, { setGlobalProxyFromEnv });
  return (setGlobalProxyFromEnv.mock.calls as unknown[][])[0]?.[0];
}

function failureOf(env: Record<string, string>, node?: object): CliError {
  try {
    useProxyOfEnvironment(ADDRESS, env, node);
  } catch (error) {
    return error as CliError;
  }
  return expect.fail("it was taken");
}

describe("proxies of the environment", () => {
  it("may leave out http://, as curl and pip take them", () => {
    const env = {
      HTTPS_PROXY: "proxy.corp:3128\n",
      http_proxy: "https://other:1",
      NO_PROXY: "a.corp,b.corp",
      HOME: "/h",
    };
    expect(toldNode(ADDRESS, env)).toEqual({
      HTTPS_PROXY: "http://proxy.corp:3128",
      http_proxy: "https://other:1",
      NO_PROXY: "a.corp,b.corp",
    });
  });

  it("are none where they are empty, and do not count for a server on this machine", () => {
    expect(toldNode(ADDRESS, { HTTPS_PROXY: "", HTTP_PROXY: " ", NO_PROXY: "*" })).toBeUndefined();
    expect(toldNode("http://127.0.0.1:7420", { HTTP_PROXY: "http://proxy.corp:3128" })).toBeUndefined();
    // It hides the other one, as it does for others who read them.
    expect(toldNode(ADDRESS, { https_proxy: "", HTTPS_PROXY: "p:1" })).toEqual({
      https_proxy: "",
      HTTPS_PROXY: "http://p:1",
    });
  });

  it("that are none are refused in words, without what may be a password", () => {
    const error = failureOf({ HTTPS_PROXY: "http://ann:secret@" });
    expect([error.code, error.exitCode, error.message]).toEqual([
      "not_configured",
      3,
      "HTTPS_PROXY is not the address of a proxy",
    ]);
    expect(`${error.hint}${error.cause}`).not.toContain("secret");
  });

  it("are refused by a Node that knows none", () => {
    const error = failureOf({ HTTPS_PROXY: "http://proxy.corp:3128" }, {});
    expect([error.code, error.exitCode]).toEqual(["not_configured", 3]);
    expect(error.message).toBe(
      `a proxy, which is set by HTTPS_PROXY, needs Node 24.14, 25.4 or newer, and this is Node ${process.versions.node}`,
    );
  });
});
