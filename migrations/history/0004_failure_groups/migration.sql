-- What failures are grouped by. Kept beside the error, which may hold a long traceback: counting the groups of 100,000 failures reads this index alone.
ALTER TABLE "tasks" ADD COLUMN "failure_key" TEXT GENERATED ALWAYS AS (
  md5(coalesce("error" ->> 'code', '') || ' ' || coalesce("error" ->> 'type', '') || ' ' || coalesce("error" ->> 'message', ''))
) STORED;
CREATE INDEX "tasks_failures_idx" ON "tasks"("job_id", "failure_key", "ordinal") WHERE "status" = 'failed';
