-- While very many tasks run, autovacuum makes statistics every 15 seconds: of samples of 30,000 rows, with all of their JSON, half a second of CPU time each
-- round. Rows are found by ids and statuses only: a tenth of the sample tells enough of those, and nothing needs be known of what is never searched.
DO $$
DECLARE
  it RECORD;
BEGIN
  FOR it IN
    SELECT attrelid::regclass AS "table", attname AS "column", CASE WHEN atttypid IN ('jsonb'::regtype, 'bytea'::regtype) THEN 0 ELSE 10 END AS target
    FROM pg_attribute
    WHERE attrelid IN ('tasks'::regclass, 'attempts'::regclass, 'results'::regclass, 'plans'::regclass, 'events'::regclass, 'logs'::regclass)
      AND attnum > 0 AND NOT attisdropped
  LOOP
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', it."table", it."column", it.target);
  END LOOP;
END $$;
