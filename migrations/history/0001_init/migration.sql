CREATE TABLE "workspaces" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "name" TEXT NOT NULL,
  "default_context" JSONB NOT NULL,
  "results_location" TEXT NOT NULL,
  "keep_heads" BOOLEAN NOT NULL DEFAULT true,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX "workspaces_name_key" ON "workspaces"("name");

CREATE TABLE "api_tokens" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "workspace_id" TEXT NOT NULL REFERENCES "workspaces"("id") ON DELETE CASCADE,
  "user_name" TEXT NOT NULL,
  "label" TEXT NOT NULL,
  "prefix" TEXT NOT NULL,
  "hash" BYTEA NOT NULL,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "expires_at" TIMESTAMPTZ(3),
  "revoked_at" TIMESTAMPTZ(3)
);
CREATE UNIQUE INDEX "api_tokens_prefix_key" ON "api_tokens"("prefix");
CREATE INDEX "api_tokens_workspace_id_id_idx" ON "api_tokens"("workspace_id", "id");

CREATE TABLE "plans" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "workspace_id" TEXT NOT NULL REFERENCES "workspaces"("id") ON DELETE CASCADE,
  "hash" BYTEA NOT NULL,
  "kind" TEXT NOT NULL,
  "sealed" BYTEA NOT NULL,
  "size_bytes" INTEGER NOT NULL,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now()
);
-- Ciphertext does not compress.
ALTER TABLE "plans" ALTER COLUMN "sealed" SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX "plans_workspace_id_hash_key" ON "plans"("workspace_id", "hash");

CREATE TABLE "clusters" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "workspace_id" TEXT NOT NULL REFERENCES "workspaces"("id") ON DELETE CASCADE,
  "name" TEXT,
  "cloud" TEXT NOT NULL,
  "shape" JSONB NOT NULL,
  "shape_hash" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "revision" INTEGER NOT NULL DEFAULT 0,
  "idle_timeout_seconds" INTEGER NOT NULL,
  "nodes_made" INTEGER NOT NULL DEFAULT 0,
  "error" JSONB,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "ready_at" TIMESTAMPTZ(3),
  "busy_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "finished_at" TIMESTAMPTZ(3),
  "due_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now()
);
CREATE INDEX "clusters_workspace_id_id_idx" ON "clusters"("workspace_id", "id");
CREATE INDEX "clusters_workspace_id_status_id_idx" ON "clusters"("workspace_id", "status", "id");
CREATE INDEX "clusters_workspace_id_shape_hash_status_idx" ON "clusters"("workspace_id", "shape_hash", "status");
CREATE INDEX "clusters_status_due_at_idx" ON "clusters"("status", "due_at");

CREATE TABLE "nodes" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "cluster_id" TEXT NOT NULL REFERENCES "clusters"("id") ON DELETE CASCADE,
  "workspace_id" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "revision" INTEGER NOT NULL DEFAULT 0,
  "join_token_hash" BYTEA,
  "node_token_hash" BYTEA,
  "handle" JSONB,
  "hostname" TEXT,
  "pythons" JSONB,
  "cpu_percent" DOUBLE PRECISION,
  "memory_bytes" BIGINT,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "ready_at" TIMESTAMPTZ(3),
  "seen_at" TIMESTAMPTZ(3),
  "finished_at" TIMESTAMPTZ(3)
);
CREATE UNIQUE INDEX "nodes_join_token_hash_key" ON "nodes"("join_token_hash");
CREATE UNIQUE INDEX "nodes_node_token_hash_key" ON "nodes"("node_token_hash");
CREATE INDEX "nodes_cluster_id_id_idx" ON "nodes"("cluster_id", "id");
CREATE INDEX "nodes_status_seen_at_idx" ON "nodes"("status", "seen_at");

CREATE TABLE "jobs" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "workspace_id" TEXT NOT NULL REFERENCES "workspaces"("id") ON DELETE CASCADE,
  "user_name" TEXT NOT NULL,
  "name" TEXT,
  "mode" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "revision" INTEGER NOT NULL DEFAULT 0,
  "phase" TEXT,
  "labels" JSONB NOT NULL,
  "spec" JSONB NOT NULL,
  "sealed" BYTEA,
  "shape" JSONB NOT NULL,
  "cluster_id" TEXT,
  "cluster_pinned" BOOLEAN NOT NULL DEFAULT false,
  "polars" TEXT NOT NULL,
  "python" TEXT NOT NULL,
  "priority" INTEGER NOT NULL,
  "attempts_max" INTEGER NOT NULL,
  "idempotency_key" TEXT,
  "request_hash" BYTEA,
  "splits_open" INTEGER NOT NULL DEFAULT 0,
  "tasks_total" INTEGER NOT NULL DEFAULT 0,
  "tasks_succeeded" INTEGER NOT NULL DEFAULT 0,
  "tasks_failed" INTEGER NOT NULL DEFAULT 0,
  "tasks_cancelled" INTEGER NOT NULL DEFAULT 0,
  "log_lines" INTEGER NOT NULL DEFAULT 0,
  "error" JSONB,
  "retry_of" TEXT,
  "cancel_requested_at" TIMESTAMPTZ(3),
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "started_at" TIMESTAMPTZ(3),
  "finished_at" TIMESTAMPTZ(3)
);
CREATE UNIQUE INDEX "jobs_workspace_id_idempotency_key_key" ON "jobs"("workspace_id", "idempotency_key");
CREATE INDEX "jobs_workspace_id_id_idx" ON "jobs"("workspace_id", "id");
CREATE INDEX "jobs_workspace_id_status_id_idx" ON "jobs"("workspace_id", "status", "id");
CREATE INDEX "jobs_workspace_id_user_name_id_idx" ON "jobs"("workspace_id", "user_name", "id");
CREATE INDEX "jobs_workspace_id_mode_id_idx" ON "jobs"("workspace_id", "mode", "id");
CREATE INDEX "jobs_labels_idx" ON "jobs" USING GIN ("labels" jsonb_path_ops);
-- What the dispatcher and the reconciler look at: jobs that are not done. Small, whatever the history.
CREATE INDEX "jobs_active_cluster_idx" ON "jobs"("cluster_id") WHERE "status" IN ('queued', 'running');

CREATE TABLE "tasks" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "job_id" TEXT NOT NULL REFERENCES "jobs"("id") ON DELETE CASCADE,
  "workspace_id" TEXT NOT NULL,
  "kind" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "ordinal" BIGINT NOT NULL,
  "frame" INTEGER,
  "parent_id" TEXT,
  "key" JSONB,
  "key_path" TEXT,
  "key_token" TEXT,
  "plan_id" TEXT NOT NULL,
  "attempt" INTEGER NOT NULL DEFAULT 0,
  "attempts_max" INTEGER NOT NULL,
  "node_id" TEXT,
  "lease_expires_at" TIMESTAMPTZ(3),
  "not_before" TIMESTAMPTZ(3),
  "manifest" JSONB,
  "split_state" JSONB,
  "phase" TEXT,
  "error" JSONB,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "started_at" TIMESTAMPTZ(3),
  "finished_at" TIMESTAMPTZ(3)
);
CREATE UNIQUE INDEX "tasks_job_id_ordinal_key" ON "tasks"("job_id", "ordinal");
CREATE INDEX "tasks_job_id_status_ordinal_idx" ON "tasks"("job_id", "status", "ordinal");
CREATE INDEX "tasks_active_node_idx" ON "tasks"("node_id") WHERE "node_id" IS NOT NULL;
CREATE INDEX "tasks_active_lease_idx" ON "tasks"("lease_expires_at") WHERE "lease_expires_at" IS NOT NULL;

CREATE TABLE "attempts" (
  "task_id" TEXT NOT NULL REFERENCES "tasks"("id") ON DELETE CASCADE,
  "number" INTEGER NOT NULL,
  "job_id" TEXT NOT NULL,
  "workspace_id" TEXT NOT NULL,
  "node_id" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "leased_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now(),
  "finished_at" TIMESTAMPTZ(3),
  "error" JSONB,
  "wall_ms" DOUBLE PRECISION,
  "cpu_ms" DOUBLE PRECISION,
  "peak_memory_bytes" BIGINT,
  PRIMARY KEY ("task_id", "number")
);

CREATE TABLE "results" (
  "task_id" TEXT NOT NULL PRIMARY KEY REFERENCES "tasks"("id") ON DELETE CASCADE,
  "job_id" TEXT NOT NULL,
  "workspace_id" TEXT NOT NULL,
  "ordinal" BIGINT NOT NULL,
  "attempt" INTEGER NOT NULL,
  "locations" JSONB NOT NULL,
  "format" TEXT NOT NULL,
  "columns" JSONB NOT NULL,
  "rows" BIGINT NOT NULL,
  "bytes" BIGINT,
  "head" BYTEA,
  "warnings" JSONB NOT NULL,
  "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX "results_job_id_ordinal_key" ON "results"("job_id", "ordinal");

CREATE TABLE "events" (
  "id" BIGSERIAL NOT NULL PRIMARY KEY,
  "workspace_id" TEXT NOT NULL,
  "job_id" TEXT,
  "task_id" TEXT,
  "cluster_id" TEXT,
  "node_id" TEXT,
  "event" TEXT NOT NULL,
  "data" JSONB,
  "at" TIMESTAMPTZ(3) NOT NULL DEFAULT now()
);
CREATE INDEX "events_job_id_id_idx" ON "events"("job_id", "id");
CREATE INDEX "events_cluster_id_id_idx" ON "events"("cluster_id", "id");
CREATE INDEX "events_workspace_id_id_idx" ON "events"("workspace_id", "id");

CREATE TABLE "logs" (
  "id" BIGSERIAL NOT NULL PRIMARY KEY,
  "workspace_id" TEXT NOT NULL,
  "job_id" TEXT NOT NULL,
  "task_id" TEXT NOT NULL,
  "attempt" INTEGER NOT NULL,
  "seq" INTEGER NOT NULL,
  "stream" TEXT NOT NULL,
  "at" TIMESTAMPTZ(3) NOT NULL,
  "text" TEXT NOT NULL
);
CREATE UNIQUE INDEX "logs_task_id_attempt_seq_key" ON "logs"("task_id", "attempt", "seq");
CREATE INDEX "logs_job_id_id_idx" ON "logs"("job_id", "id");
