-- A repeated start of a cluster gives the same cluster.
ALTER TABLE "clusters" ADD COLUMN "idempotency_key" TEXT, ADD COLUMN "request_hash" BYTEA;
CREATE UNIQUE INDEX "clusters_workspace_id_idempotency_key_key" ON "clusters"("workspace_id", "idempotency_key");

-- Attempts that nodes gave back do not count as tries, and have a bound of their own.
ALTER TABLE "tasks" ADD COLUMN "releases" INTEGER NOT NULL DEFAULT 0;

-- Every control plane hears at once of a token that is no longer good, however that came about. The payload has the form of db/changes.ts: sender, then topics.
CREATE FUNCTION "announce_ended_token"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('frazil_changes', E'database\ntoken:' || OLD.prefix);
  RETURN NULL;
END $$;
CREATE TRIGGER "api_tokens_changed" AFTER UPDATE OR DELETE ON "api_tokens" FOR EACH ROW EXECUTE FUNCTION "announce_ended_token"();

CREATE FUNCTION "announce_ended_node_token"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('frazil_changes', E'database\nnode:' || OLD.id);
  RETURN NULL;
END $$;
CREATE TRIGGER "nodes_token_changed" AFTER UPDATE OF "node_token_hash" ON "nodes" FOR EACH ROW
  WHEN (OLD.node_token_hash IS NOT NULL AND NEW.node_token_hash IS DISTINCT FROM OLD.node_token_hash) EXECUTE FUNCTION "announce_ended_node_token"();
