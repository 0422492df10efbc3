-- What of the alerts was told to whom: the memory of their delivery, so that a restart repeats and forgets nothing.

CREATE TABLE IF NOT EXISTS audit.alert_deliveries (
    alert_id      bigint NOT NULL REFERENCES audit.alerts (id),
    channel       text NOT NULL,
    level         text NOT NULL CHECK (level IN ('info', 'warning', 'critical')),
    message       text NOT NULL,
    over          boolean NOT NULL,
    state         text NOT NULL CHECK (state IN ('sending', 'told', 'failed')),
    sends         integer NOT NULL DEFAULT 1 CHECK (sends > 0),
    attempted_at  timestamptz NOT NULL,
    told_at       timestamptz,
    PRIMARY KEY (alert_id, channel)
);
CREATE INDEX IF NOT EXISTS alert_deliveries_attempted ON audit.alert_deliveries (attempted_at);
CREATE INDEX IF NOT EXISTS alerts_matter ON audit.alerts (kind, subject);
CREATE INDEX IF NOT EXISTS alerts_resolved ON audit.alerts (resolved_at);
COMMENT ON TABLE audit.alert_deliveries IS 'What was last told of an alert to one of the channels of ALERT_URLS.';
COMMENT ON COLUMN audit.alert_deliveries.alert_id IS 'The alert.';
COMMENT ON COLUMN audit.alert_deliveries.channel IS 'The channel: the kind of its URL and a short digest, which gives nothing away.';
COMMENT ON COLUMN audit.alert_deliveries.level IS 'The alert''s level as it was told.';
COMMENT ON COLUMN audit.alert_deliveries.message IS 'The alert''s message as it was told.';
COMMENT ON COLUMN audit.alert_deliveries.over IS 'Whether it was told that the matter is over.';
COMMENT ON COLUMN audit.alert_deliveries.state IS 'sending before the message leaves; then told or failed. One that is still sending was interrupted.';
COMMENT ON COLUMN audit.alert_deliveries.sends IS 'How often this was sent without an answer being committed; twice counts as told.';
COMMENT ON COLUMN audit.alert_deliveries.attempted_at IS 'When it was last sent.';
COMMENT ON COLUMN audit.alert_deliveries.told_at IS 'When the channel last took a message about the alert; NULL when it never did.';
