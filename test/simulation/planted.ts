import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadProduct, type Product } from "./product.ts";
import { SOURCES } from "./seeds.ts";

/** A fault to plant into a copy of the control plane: `text` becomes `fault`. */
export interface Planted {
  readonly name: string;
  readonly file: string;
  readonly text: string;
  readonly fault: string;
  /** What the simulation says of it. */
  readonly found: RegExp;
  /** Takes more seeds than CI has time for. */
  readonly isRare?: true;
}

export const PLANTED: readonly Planted[] = [
  {
    name: "a report of an earlier attempt is recorded",
    file: "flow/record.ts",
    text: "task.attempt === report.message.attempt && task.node_id === report.nodeId",
    fault: "task.node_id === report.nodeId",
    found: /another attempt reported|can't have succeeded|acknowledged/,
    isRare: true,
  },
  {
    name: "a split that is done is not counted",
    file: "flow/settle.ts",
    text: "if (isSplit) tally.splitsDone += 1;",
    fault: "",
    found: /not quiet|never ended/,
  },
  {
    name: "leases never run out",
    file: "flow/steps.ts",
    text: `find: async () => ["leases"]`,
    fault: "find: async () => []",
    found: /not quiet|never ended/,
    isRare: true,
  },
  {
    name: "a failure is tried again for ever",
    file: "domain/after-failure.ts",
    text: "if (failed.tries >= attemptsMax)",
    fault: "if (failed.tries >= 99)",
    found: /attempts|not quiet/,
  },
  {
    name: "what is being published is cancelled",
    file: "db/job-tasks.ts",
    text: `lockBatch("manifest IS NULL")`,
    fault: `lockBatch("true")`,
    found: /its output is visible|became visible/,
    isRare: true,
  },
  {
    name: "a stale attempt passes the fence",
    file: "db/tasks.ts",
    text: "WHERE id = $1 AND attempt = $2 AND node_id = $3 AND status = ANY($6)",
    fault: "WHERE id = $1 AND attempt >= $2 AND $3::text <> '' AND status = ANY($6)",
    found: /became visible|output/,
    isRare: true,
  },
  {
    name: "a node is called terminated before the cloud says so",
    file: "flow/place.ts",
    text: `if (verdict === "gone") await`,
    fault: "await",
    found: /terminated/,
    isRare: true,
  },
  {
    name: "a key is taken with any body",
    file: "flow/repeats.ts",
    text: "!first.request_hash.equals(requestHash)",
    fault: "requestHash.length === 0",
    found: /another body was not refused/,
    isRare: true,
  },
  {
    name: "a connection that closed early gets leases",
    file: "flow/dispatch.ts",
    text: "if (state.links.expected.get(link.nodeId) !== link) return;",
    fault: "",
    found: /held|node_lost|not quiet/,
    isRare: true,
  },
  {
    name: "a retry forgets what was cancelled",
    file: "db/job-tasks.ts",
    text: "WHERE job_id = $1 AND status IN ('failed', 'cancelled')) old",
    fault: "WHERE job_id = $1 AND status IN ('failed')) old",
    found: /retries|counts|not quiet/,
    isRare: true,
  },
  {
    name: "jobs stay on a cluster that ended",
    file: "flow/place.ts",
    text: "for (const jobId of await deps.db.jobs.unplaceJobs(deps.pool, cluster.id)) {",
    fault: "for (const jobId of [] as string[]) {",
    found: /not quiet/,
  },
  {
    name: "the first failure does not stop the rest",
    file: "flow/settle.ts",
    text: `(job.spec as JobSpec).onFailure !== "cancel"`,
    fault: "true",
    found: /started something/,
  },
  {
    name: "one batch records a task twice",
    file: "flow/record.ts",
    text: " || chosen.has(task.id)",
    fault: "",
    found: /./,
    isRare: true,
  },
];

const ROOT = fileURLToPath(new URL("../../.frazil/planted", import.meta.url));

/** A copy of the control plane with the fault in it. It lies within the project, so that it finds the same packages. */
export async function plant(planted: Planted): Promise<{ product: Product; remove(): void }> {
  const dir = join(ROOT, planted.name.replaceAll(/\W+/g, "-"));
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(ROOT, { recursive: true });
  cpSync(SOURCES, dir, {
    recursive: true,
    filter: (path) => !path.includes("generated") && !path.endsWith(".test.ts"),
  });
  const file = join(dir, planted.file);
  const source = readFileSync(file, "utf8");
  if (source.split(planted.text).length !== 2) throw new Error(`${planted.file} has not exactly one "${planted.text}"`);
  writeFileSync(
    file,
    source.replace(planted.text, () => planted.fault),
  );
  return { product: await loadProduct(dir), remove: () => rmSync(dir, { recursive: true, force: true }) };
}
