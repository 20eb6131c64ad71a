import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eraseEmbeddedPostgres, startEmbeddedPostgres } from "@frazil/cli/dev/embedded-postgres";
import type { TestProject } from "vitest/node";
import { runSql } from "../harness/databases.ts";

/** A real Postgres for the simulation, which keeps nothing: it need not wait for the disk. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "frazil-simulation-"));
  const dir = join(folder, "postgres");
  const postgres = await startEmbeddedPostgres({ dir });
  await runSql(postgres.url, "ALTER SYSTEM SET fsync = off");
  await runSql(postgres.url, "SELECT pg_reload_conf()");
  project.provide("postgresUrl", postgres.url);
  return async () => {
    await postgres.stop();
    await eraseEmbeddedPostgres(dir);
    await rm(folder, { recursive: true });
  };
}
