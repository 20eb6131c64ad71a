import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { runCli } from "../program.ts";
import { fakeIo } from "../testing/fake-io.ts";
import { type FakeServer, startFakeServer } from "../testing/fake-server.ts";

let server: FakeServer;
let limit: number | null = 8;
beforeEach(async () => {
  limit = 8;
  server = await startFakeServer();
  server.state.intercept = ({ method, path, body }) => {
    if (path !== "/v1/workspace") return undefined;
    if (method === "PATCH") limit = (body as { tasksRunningMax: number | null }).tasksRunningMax;
    return { json: { id: "ws_1", name: "analytics", tasksRunningMax: limit, tasksRunning: 3 } };
  };
});
afterEach(() => server.close());

async function run(args: string[]) {
  const io = fakeIo({ env: server.env });
  return { code: await runCli(io, args), out: io.out(), err: io.err() };
}

describe("pc workspace", () => {
  it("shows how much of the limit is taken, and changes nothing", async () => {
    expect(await run(["workspace"])).toEqual({
      code: 0,
      out: "analytics (ws_1): 3 tasks on nodes of at most 8\n",
      err: "",
    });
    expect(server.to("PATCH", "/v1/workspace")).toHaveLength(0);
  });

  it("sets the limit, and takes it away", async () => {
    expect(await run(["workspace", "--tasks-max", "50"])).toMatchObject({
      code: 0,
      out: "analytics (ws_1): 3 tasks on nodes of at most 50\n",
    });
    expect((await run(["workspace", "--tasks-max", "none"])).out).toBe("analytics (ws_1): 3 tasks on nodes\n");
    expect(limit).toBeNull();
  });

  it("refuses what is no limit before it asks the server", async () => {
    for (const text of ["0", "-1", "x", "1.5"])
      expect((await run(["workspace", "--tasks-max", text])).code).not.toBe(0);
    expect(server.to("PATCH", "/v1/workspace")).toHaveLength(0);
  });
});
