-- Proposals of overrides are read from the log itself; they are few among very many rows.
-- Building it reads the log once and holds up writes meanwhile (some seconds for ten million rows).
CREATE INDEX stored_events_overrides_idx ON ledger.stored_events (notification_id)
 WHERE topic = 'accounting.decisions:Override.Proposed';
