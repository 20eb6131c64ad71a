-- Tasks that wait to be tried again, wherever in the job's order they stand. The others wait behind the ones that were leased first: the dispatcher
-- remembers how far a job has come, and does not walk past what is done.
CREATE INDEX "tasks_retried_idx" ON "tasks"("job_id", "ordinal") WHERE "status" = 'queued' AND "attempt" > 0;
DROP INDEX "tasks_republish_idx";
