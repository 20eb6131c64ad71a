-- The statements that fail a task write it. As a generated column it cost every change of a task, failed or not: Postgres reads the expression's text anew
-- for each row that an update leaves it as it is.
ALTER TABLE "tasks" ALTER COLUMN "failure_key" DROP EXPRESSION;
