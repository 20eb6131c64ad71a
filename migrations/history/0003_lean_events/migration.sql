-- Every task writes two events: an index that nobody reads costs each of them.
DROP INDEX "events_workspace_id_id_idx";
DROP INDEX "events_cluster_id_id_idx";
CREATE INDEX "events_cluster_id_id_idx" ON "events"("cluster_id", "id") WHERE "cluster_id" IS NOT NULL;
