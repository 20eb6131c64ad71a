/** Written by triggers of the database itself: what no code of the product can forget to tell. */
export const WATCHES = `
CREATE TABLE moves (n BIGSERIAL PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, was TEXT NOT NULL, became TEXT NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE wrongs (n BIGSERIAL PRIMARY KEY, what TEXT NOT NULL);

CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO moves (kind, id, was, became) VALUES (TG_ARGV[0], NEW.id, OLD.status, NEW.status);
  RETURN NULL;
END $$;
CREATE TRIGGER moves AFTER UPDATE ON jobs FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_move('job');
CREATE TRIGGER moves AFTER UPDATE ON tasks FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_move('task');
CREATE TRIGGER moves AFTER UPDATE ON clusters FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_move('cluster');
CREATE TRIGGER moves AFTER UPDATE ON nodes FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_move('node');

CREATE FUNCTION note_wrong() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO wrongs (what) VALUES (TG_ARGV[0] || ': ' || NEW.task_id || ' #' || NEW.number || ' ' || OLD.status || ' -> ' || NEW.status);
  RETURN NULL;
END $$;
CREATE TRIGGER recorded_once AFTER UPDATE ON attempts FOR EACH ROW WHEN (OLD.status <> 'leased') EXECUTE FUNCTION note_wrong('an attempt was recorded twice');

CREATE FUNCTION watch_attempt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF EXISTS (SELECT 1 FROM attempts a WHERE a.task_id = NEW.task_id AND a.number <> NEW.number AND a.status = 'leased') THEN
    INSERT INTO wrongs (what) VALUES ('two live attempts of one task: ' || NEW.task_id || ' #' || NEW.number);
  END IF;
  IF EXISTS (SELECT 1 FROM jobs j JOIN tasks t ON t.id = NEW.task_id WHERE j.id = NEW.job_id AND t.manifest IS NULL
      AND (j.cancel_requested_at IS NOT NULL OR j.spec ->> 'onFailure' = 'cancel' AND j.tasks_failed > 0)) THEN
    INSERT INTO wrongs (what) VALUES ('a stopped job started something: ' || NEW.task_id || ' #' || NEW.number);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER one_live AFTER INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION watch_attempt();

CREATE FUNCTION watch_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO wrongs (what) VALUES ('an ended job was changed: ' || NEW.id);
  RETURN NULL;
END $$;
CREATE TRIGGER absorbing AFTER UPDATE ON jobs FOR EACH ROW WHEN (OLD.status IN ('succeeded', 'failed', 'cancelled') AND
  (OLD.tasks_total, OLD.tasks_succeeded, OLD.tasks_failed, OLD.tasks_cancelled, OLD.splits_open, OLD.error, OLD.finished_at) IS DISTINCT FROM
  (NEW.tasks_total, NEW.tasks_succeeded, NEW.tasks_failed, NEW.tasks_cancelled, NEW.splits_open, NEW.error, NEW.finished_at)) EXECUTE FUNCTION watch_job();
`;
