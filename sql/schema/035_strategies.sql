-- What strategies of our own decided on.

CREATE TABLE IF NOT EXISTS audit.trade_decision_disclosures (
    trade_decision_id  bigint NOT NULL REFERENCES audit.trade_decisions (id),
    quiver_trade_id    bigint NOT NULL REFERENCES quiver_trades (id),
    strategy_name      text NOT NULL,
    PRIMARY KEY (quiver_trade_id, strategy_name)
);
CREATE INDEX IF NOT EXISTS trade_decision_disclosures_decision ON audit.trade_decision_disclosures (trade_decision_id);
COMMENT ON TABLE audit.trade_decision_disclosures IS 'Which disclosures a strategy''s decision rests on; each strategy decides on a disclosure once.';
COMMENT ON COLUMN audit.trade_decision_disclosures.trade_decision_id IS 'The decision.';
COMMENT ON COLUMN audit.trade_decision_disclosures.quiver_trade_id IS 'The disclosure.';
COMMENT ON COLUMN audit.trade_decision_disclosures.strategy_name IS 'Who decided, as in trade_decisions.';
