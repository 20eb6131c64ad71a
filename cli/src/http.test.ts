import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { CliError, ServerProblem } from "./cli-error.ts";
import { backoffMs, openTransport, targetOf } from "./http.ts";
import { type FakeServer, problemAnswer, startFakeServer, TOKEN } from "./testing/fake-server.ts";

let server: FakeServer;
beforeEach(async () => {
  server = await startFakeServer();
});
afterEach(() => server.close());
const open = (token = TOKEN) => openTransport({ address: server.address, token, source: "test" }, "test/1");
const failureOf = async (sending: Promise<unknown>) =>
  sending.then(
    () => expect.fail("it was answered"),
    (error: unknown) => error as CliError,
  );

const JSON_LINES = [
  '{"line":"header","spec":{"client":{"polars":"2.1.0","python":"3.11"}}}\n',
  '{"line":"plan","number":0,"plan":{"kind":"sql","text":"SELECT 1"}}\n',
  '{"line":"frames","plans":[0]}\n',
];
const NDJSON = "application/x-ndjson";

describe("send", () => {
  it("says who is asking", async () => {
    await open().send({ method: "GET", path: "/v1/me" });
    expect(server.received[0]?.headers).toMatchObject({ authorization: `Bearer ${TOKEN}`, "user-agent": "test/1" });
  });

  it.each([
    ["breaks the connection", "drop"],
    ["is not available", problemAnswer("unavailable", "starting")],
    ["sends a proxy's 502 page", { status: 502, text: "<html>", headers: { "content-type": "text/html" } }],
  ] as const)("tries again while a server %s, under the same idempotency key", async (_what, answer) => {
    let left = 2;
    server.state.intercept = () => (left-- > 0 ? answer : undefined);
    const body = {
      type: "application/json",
      make: () =>
        JSON.stringify({
          spec: { client: { polars: "2.1.0", python: "3.11" } },
          plan: { kind: "sql", text: "SELECT 1" },
        }),
    };
    await open().send({ method: "POST", path: "/v1/jobs", body, idempotencyKey: "k1", retryMs: 10_000 });
    expect(server.received.map(({ headers }) => headers["idempotency-key"])).toEqual(["k1", "k1", "k1"]);
    expect(server.state.jobs.size).toBe(1);
  });

  it("makes a streamed body anew for each try", async () => {
    let left = 1;
    server.state.intercept = () => (left-- > 0 ? "drop" : undefined);
    const make = async function* () {
      for (const line of JSON_LINES) yield Buffer.from(line);
    };
    await open().send({
      method: "POST",
      path: "/v1/jobs",
      body: { type: NDJSON, make },
      retryMs: 10_000,
    });
    expect(server.received.map(({ body }) => (body as unknown[]).length)).toEqual([3, 3]);
  });

  it.each([
    ["invalid_request", 4],
    ["not_found", 4],
    ["capacity", 3],
    ["internal", 3],
  ] as const)("does not repeat what the server answers with %s", async (code, exitCode) => {
    server.state.intercept = () => problemAnswer(code, "so it is");
    const error = await failureOf(open().send({ method: "GET", path: "/v1/me" }));
    expect(error).toBeInstanceOf(ServerProblem);
    expect([error.code, error.message, error.exitCode, server.received.length]).toEqual([
      code,
      "so it is",
      exitCode,
      1,
    ]);
  });

  it("has all of its time for retries after an answer that was held back on purpose", async () => {
    let requests = 0;
    const slow = createServer((_request, response) => {
      requests += 1;
      if (requests === 2) setTimeout(() => response.destroy(), 500);
      else response.writeHead(200, { "content-type": "application/json" }).end("{}");
    });
    await new Promise<void>((resolve) => slow.listen(0, "127.0.0.1", resolve));
    try {
      const address = `http://127.0.0.1:${(slow.address() as AddressInfo).port}`;
      const transport = openTransport({ address, token: TOKEN, source: "test" }, "test/1");
      await transport.send({ method: "GET", path: "/v1/me" });
      await transport.send({ method: "GET", path: "/v1/jobs/job_1/wait", heldMs: 20_000, retryMs: 400 });
      expect(requests).toBe(3);
    } finally {
      slow.closeAllConnections();
      slow.close();
    }
  });

  it("gives up after the time that it has", async () => {
    server.state.intercept = () => problemAnswer("unavailable", "down");
    const error = await failureOf(open().send({ method: "GET", path: "/v1/me", retryMs: 300 }));
    expect([error.code, error.exitCode]).toEqual(["unavailable", 3]);
    expect(server.received.length).toBeGreaterThan(1);
  });

  it("says what a token that is not accepted needs", async () => {
    const error = await failureOf(open("frz_other").send({ method: "GET", path: "/v1/me" }));
    expect([error.code, error.exitCode, error.hint]).toEqual([
      "unauthenticated",
      4,
      expect.stringContaining("pc login"),
    ]);
  });

  it("says that nothing listens at an address", async () => {
    const { address } = server;
    await server.close();
    const error = await failureOf(
      openTransport({ address, token: "x", source: "test" }, "t").send({ method: "GET", path: "/v1/me" }),
    );
    expect([error.code, error.exitCode, error.message]).toEqual([
      "unreachable",
      3,
      `${address} can't be reached: nothing listens there (connection refused)`,
    ]);
    server = await startFakeServer();
  });

  it("takes a foreign server for what it is", async () => {
    server.state.intercept = () => ({ text: "<html>hello", headers: { "content-type": "text/html" } });
    const error = await failureOf(open().send({ method: "GET", path: "/v1/me" }));
    expect([error.code, error.message]).toEqual([
      "not_frazil",
      expect.stringContaining("200 with text/html, which is not an answer of a Frazil server"),
    ]);
  });

  it("never takes the token along to another host", async () => {
    let visits = 0;
    const other = createServer((_request, response) => {
      visits += 1;
      response.end("{}");
    });
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const location = `http://127.0.0.1:${(other.address() as AddressInfo).port}/v1/me`;
    server.state.intercept = () => ({ status: 307, headers: { location } });
    const error = await failureOf(open().send({ method: "GET", path: "/v1/me" }));
    other.close();
    expect([error.code, visits]).toEqual(["not_frazil", 0]);
  });

  it("stops at once when it is aborted, with the reason given", async () => {
    const controller = new AbortController();
    server.state.intercept = () => {
      controller.abort(new CliError("interrupted", 130, "stop"));
      return undefined;
    };
    const job = server.addJob();
    const error = await failureOf(
      open().send({
        method: "GET",
        path: `/v1/jobs/${job.id}/wait`,
        query: { timeout: 30 },
        signal: controller.signal,
      }),
    );
    expect([error.code, error.exitCode]).toEqual(["interrupted", 130]);
  });
});

/** Longer than any limit of ours, and than fetch's own for an answer. */
const LONG_MS = 10 * 60_000;

describe("a long body", () => {
  it("of text arrives whole, in pieces", async () => {
    const plan = { kind: "sql", text: `SELECT '${"é".repeat(300_000)}'` };
    const make = () => JSON.stringify({ spec: { client: { polars: "2.1.0", python: "3.11" } }, plan });
    await open().send({ method: "POST", path: "/v1/jobs", body: { type: "application/json", make } });
    expect(server.received).toMatchObject([{ headers: { "transfer-encoding": "chunked" }, body: { plan } }]);
  });

  it("is answered even if the server reads none of it", async () => {
    const other = createServer((_request, response) => {
      response.writeHead(401, { "content-type": "application/json" }).end('{"code":"unauthenticated"}');
    });
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const address = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
    const body = { type: "application/json", make: () => "x".repeat(10_000_000) };
    const transport = openTransport({ address, token: TOKEN, source: "test" }, "test/1");
    const error = await failureOf(transport.send({ method: "POST", path: "/v1/jobs", body }));
    other.closeAllConnections();
    other.close();
    expect(error.code).toBe("unauthenticated");
  });

  describe("has a time limit", () => {
    beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] }));
    afterEach(() => void vi.useRealTimers());

    it("that does not count while the body is made", async () => {
      const asked = Promise.withResolvers<void>();
      const goOn = Promise.withResolvers<void>();
      const make = async function* () {
        yield Buffer.from(JSON_LINES[0] ?? "");
        asked.resolve();
        await goOn.promise;
        for (const line of JSON_LINES.slice(1)) yield Buffer.from(line);
      };
      const sending = open().send({ method: "POST", path: "/v1/jobs", body: { type: NDJSON, make } });
      await asked.promise;
      vi.advanceTimersByTime(LONG_MS);
      goOn.resolve();
      expect(await sending).toMatchObject({ status: "queued" });
    });

    it("for the answer to what was streamed", async () => {
      const read = Promise.withResolvers<void>();
      server.state.intercept = () => {
        read.resolve();
        return "swallow";
      };
      const make = async function* () {
        for (const line of JSON_LINES) yield Buffer.from(line);
      };
      const body = { type: NDJSON, make };
      const failing = failureOf(open().send({ method: "POST", path: "/v1/jobs", body, retryMs: 0 }));
      await read.promise;
      vi.advanceTimersByTime(LONG_MS);
      const error = await failing;
      expect([error.code, error.message]).toEqual([
        "unreachable",
        `${server.address} can't be reached: it did not answer in time`,
      ]);
    });
  });
});

describe("small parts", () => {
  it("targets leave out what is not given, and escape the rest", () => {
    expect(targetOf({ path: "/v1/jobs", query: { label: "a:b c&d", limit: 5, cursor: undefined } })).toBe(
      "/v1/jobs?label=a%3Ab+c%26d&limit=5",
    );
    expect(targetOf({ path: "/v1/me" })).toBe("/v1/me");
  });

  it("pauses double up to a limit, and never come in step", () => {
    expect([1, 2, 3, 20].map((attempt) => backoffMs(attempt, 1))).toEqual([50, 100, 200, 2_000]);
    expect(backoffMs(1, 0)).toBe(25);
  });
});
