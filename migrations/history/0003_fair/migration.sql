-- Most tasks of a workspace that may be on nodes at once; null: as many as there are slots.
ALTER TABLE "workspaces" ADD COLUMN "tasks_running_max" INTEGER;
-- What that limit is counted from.
CREATE INDEX "tasks_active_workspace_idx" ON "tasks"("workspace_id") WHERE "node_id" IS NOT NULL;

-- When a task of the job was last leased, to about a second: a job that waits rises above higher priorities.
ALTER TABLE "jobs" ADD COLUMN "leased_at" TIMESTAMPTZ(3);

-- Jobs that were asked to stop, until they have.
CREATE INDEX "jobs_stopping_idx" ON "jobs"("id") WHERE "cancel_requested_at" IS NOT NULL AND "status" IN ('queued', 'running');
-- All that is leased of a job that stops: publishings that were begun.
CREATE INDEX "tasks_republish_idx" ON "tasks"("job_id", "ordinal") WHERE "manifest" IS NOT NULL AND "status" = 'queued';

-- Nobody looks for nodes by when they were heard of, and every heartbeat had to write it.
DROP INDEX "nodes_status_seen_at_idx";
