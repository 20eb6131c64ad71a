-- An ended job of which attempts may have left something in storage is swept by a node: when, and null once it was, or needs not be.
ALTER TABLE "jobs"
  ADD COLUMN "leftovers" BOOLEAN NOT NULL DEFAULT false,
  ADD COLUMN "sweep_due_at" TIMESTAMPTZ(3);
CREATE INDEX "jobs_sweep_due_idx" ON "jobs"("sweep_due_at") WHERE "sweep_due_at" IS NOT NULL;
-- Few beside all attempts: those whose results are nobody's.
CREATE INDEX "attempts_lost_idx" ON "attempts"("job_id", "task_id", "number") WHERE "status" IN ('failed', 'lost', 'released');
