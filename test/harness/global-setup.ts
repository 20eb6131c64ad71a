import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eraseEmbeddedPostgres, startEmbeddedPostgres } from "@frazil/cli/dev/embedded-postgres";
import { applyMigrations } from "@frazil/migrations";
import type { TestProject } from "vitest/node";
import { runSql, TEMPLATE_DATABASE, withDatabase } from "./databases.ts";

/** Starts one real Postgres for the whole run, with a migrated database that test files clone. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "frazil-test-"));
  const dir = join(folder, "postgres");
  const postgres = await startEmbeddedPostgres({ dir });
  const tearDown = async () => {
    await postgres.stop();
    await eraseEmbeddedPostgres(dir);
    await rm(folder, { recursive: true });
  };
  try {
    await runSql(postgres.url, `CREATE DATABASE ${TEMPLATE_DATABASE}`);
    await applyMigrations(withDatabase(postgres.url, TEMPLATE_DATABASE));
    // Nobody may connect to it: a database that is in use cannot be cloned.
    await runSql(postgres.url, `ALTER DATABASE ${TEMPLATE_DATABASE} IS_TEMPLATE true ALLOW_CONNECTIONS false`);
    project.provide("postgresUrl", postgres.url);
  } catch (error) {
    await tearDown();
    throw error;
  }
  return tearDown;
}
