import { Problem } from "@frazil/contracts";
import { Hono } from "hono";
import { HTTPException } from "hono/http-exception";
import { pino } from "pino";
import { describe, expect, it } from "vitest";
import { answerProblem, problemOf } from "./problems.ts";

const SECRET = "hunter2";
const pgError = (code: string, message = `something about ${SECRET}`) => Object.assign(new Error(message), { code });

describe("what was thrown, as a problem", () => {
  it("is a caller's own mistake when it was thrown as one", () => {
    const problem = new Problem("conflict", "It has ended.");
    expect(problemOf(problem)).toBe(problem);
  });

  it("is 503 when the database is in the way", () => {
    for (const code of ["ECONNREFUSED", "ECONNRESET", "08006", "53300", "57P01", "57P03", "53100", "55P03", "40P01"])
      expect({ code, problem: problemOf(pgError(code)).code }).toEqual({ code, problem: "unavailable" });
    for (const message of ["Connection terminated unexpectedly", "timeout exceeded when trying to connect"])
      expect(problemOf(new Error(message)).code).toBe("unavailable");
  });

  it("is 400 when a text can't be kept", () => {
    expect(problemOf(pgError("22021")).code).toBe("invalid_request");
    expect(problemOf(pgError("22P05")).code).toBe("invalid_request");
    expect(problemOf(pgError("22P02", "invalid input syntax for type json")).code).toBe("invalid_request");
    expect(problemOf(pgError("22P02", "invalid input syntax for type integer")).code).toBe("internal");
  });

  it("is 413 for a body that the server cut off, and 400 for other faults of HTTP", () => {
    expect(problemOf(new HTTPException(413)).code).toBe("too_large");
    expect(problemOf(new HTTPException(400, { message: "Malformed JSON" }))).toMatchObject({
      code: "invalid_request",
      detail: "Malformed JSON",
    });
  });

  it("is 500 without a word of the cause for everything else", () => {
    for (const thrown of [new Error(SECRET), pgError("23505"), SECRET, undefined, null, { message: SECRET }]) {
      const problem = problemOf(thrown);
      expect(problem.code).toBe("internal");
      expect(problem.detail).not.toContain(SECRET);
    }
  });
});

describe("an answer", () => {
  async function answer(thrown: unknown) {
    const lines: string[] = [];
    const log = pino({}, { write: (line: string) => void lines.push(line) });
    const app = new Hono();
    app.get("/v1/thing", (c) => answerProblem(c, thrown, log));
    const response = await app.request("/v1/thing");
    return { response, body: (await response.json()) as Record<string, unknown>, lines };
  }

  it("is a problem document with its address, and tells when to try again", async () => {
    const { response, body, lines } = await answer(pgError("ECONNREFUSED"));
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(response.headers.get("retry-after")).toBe("2");
    expect(body).toMatchObject({
      type: "urn:frazil:error:unavailable",
      status: 503,
      code: "unavailable",
      instance: "/v1/thing",
    });
    expect(lines).toHaveLength(1);
  });

  it("of 401 says how to authenticate; a caller's mistake is not logged as ours", async () => {
    const { response, lines } = await answer(new Problem("unauthenticated", "No."));
    expect([response.status, response.headers.get("www-authenticate"), response.headers.get("retry-after")]).toEqual([
      401,
      "Bearer",
      null,
    ]);
    expect(lines).toEqual([]);
  });
});
