import { JobSpec, mintId, POLARS_RELEASES } from "@frazil/contracts";
import { describe, expect, it } from "vitest";
import type { Deps, WorkspaceRow } from "./deps.ts";
import { openTemplates } from "./templates.ts";

const MIB = 1024 * 1024;
const WORKSPACE = { id: "ws_1", results_location: "/results", keep_heads: true } as WorkspaceRow;

/** Templates of jobs whose specs have so many bytes, and how often each was read from the database. */
function templatesOf(bytesOf: (jobId: string) => number) {
  const reads = new Map<string, number>();
  const spec = JobSpec.parse({ client: { polars: POLARS_RELEASES.at(-1)?.version, python: "3.11" } });
  const deps = {
    pool: {},
    sealer: { open: () => Buffer.from(JSON.stringify(spec)) },
    db: {
      jobs: {
        loadJob: async (_: unknown, id: string) => {
          reads.set(id, (reads.get(id) ?? 0) + 1);
          return { id, workspace_id: WORKSPACE.id, user_name: "ada", sealed: { length: bytesOf(id) } };
        },
      },
      tokens: { loadWorkspace: async () => WORKSPACE },
    },
  } as unknown as Deps;
  return { templates: openTemplates(deps), readsOf: (id: string) => reads.get(id) ?? 0 };
}

const jobIds = (count: number) => Array.from({ length: count }, () => mintId("job"));

describe("templates that are kept", () => {
  it("are read once, by however many at the same moment", async () => {
    const { templates, readsOf } = templatesOf(() => 500);
    const [id = ""] = jobIds(1);
    await Promise.all([templates.of(id), templates.of(id)]);
    expect(await templates.of(id)).toMatchObject({ jobId: id, user: "ada" });
    expect(readsOf(id)).toBe(1);
  });

  it.each([
    ["500 small ones", 500, 500],
    ["64 of a mebibyte", MIB, 64],
  ])("are %s, and the oldest go", async (_, bytes, count) => {
    const { templates, readsOf } = templatesOf(() => bytes);
    const ids = jobIds(count + 1);
    for (const id of ids) await templates.of(id);
    for (const id of ids.slice(1)) await templates.of(id);
    expect(ids.slice(1).every((id) => readsOf(id) === 1)).toBe(true);
    await templates.of(ids[0] ?? "");
    expect(readsOf(ids[0] ?? "")).toBe(2);
  });

  it("count those of jobs that were submitted here", async () => {
    const { templates, readsOf } = templatesOf(() => MIB);
    const [id = "", large = ""] = jobIds(2);
    const template = await templates.of(id);
    templates.keep({ ...template, jobId: large }, 64 * MIB);
    await templates.of(large);
    await templates.of(id);
    expect([readsOf(large), readsOf(id)]).toEqual([0, 2]);
  });
});
