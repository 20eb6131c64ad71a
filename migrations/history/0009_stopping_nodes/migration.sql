-- A node that was told to drain speaks on while it does: from when on it had time is not told by its silence.
ALTER TABLE "nodes" ADD COLUMN "stopping_at" TIMESTAMPTZ(3);
