-- Every change of a task's status writes a row version into each index of tasks. Pages in order are put together from those of each status; that a place in a
-- job yields one result is what results_job_id_ordinal_key sees to.
DROP INDEX "tasks_job_id_ordinal_key";
