-- What the reports of audit_trail are read from; docs/benchmarks.md says what they take.

-- Everything known about a symbol since a day, without a page of the table for each row. The name has 500 characters at most
-- and the symbol 60, so that an entry always fits; other words of a disclosure may not.
CREATE INDEX IF NOT EXISTS quiver_trades_known ON quiver_trades (symbol, available_at)
    INCLUDE (id, person_name, side, transaction_date, disclosure_date, amount_low, amount_high, data_ingestion_run_id);

-- Decisions of a symbol, and decisions of a period without their wide rows. Status is in the condition of other indexes,
-- so a decision's end could not be a heap-only update before either.
CREATE INDEX IF NOT EXISTS trade_decisions_symbol ON audit.trade_decisions (symbol, created_at);
CREATE INDEX IF NOT EXISTS trade_decisions_made ON audit.trade_decisions (created_at)
    INCLUDE (id, strategy_name, strategy_version, action, symbol, status);

-- Decisions that failed: one entry for each failure.
CREATE INDEX IF NOT EXISTS trade_decisions_failed ON audit.trade_decisions (created_at) WHERE status = 'failed';

-- What rests on a disclosed trade: decisions of strategies only.
CREATE INDEX IF NOT EXISTS trade_decisions_quiver_trade ON audit.trade_decisions (primary_quiver_trade_id)
    WHERE primary_quiver_trade_id IS NOT NULL;

-- Trades of a period, for strategies. What is included changes together with the status, except while an entry fills.
CREATE INDEX IF NOT EXISTS trade_journal_made ON trade_journal (created_at)
    INCLUDE (trade_decision_id, side, status, planned_entry, planned_qty, actual_entry, actual_qty, actual_pnl, exit_date,
             pnl_is_estimate, split_ratio);

-- How long entries took to fill. An order comes in when it is filled, and once.
CREATE INDEX IF NOT EXISTS order_execution_entries_filled ON order_execution (created_at)
    INCLUDE (trade_decision_id, filled_at) WHERE order_type = 'ENTRY' AND filled_at IS NOT NULL;

-- Which check refused a decision: one row for each refusal.
CREATE INDEX IF NOT EXISTS risk_checks_failed ON audit.risk_checks (trade_decision_id) INCLUDE (check_name)
    WHERE NOT passed;

CREATE OR REPLACE VIEW audit.failed_decisions AS
SELECT decision.id, decision.decision_id, decision.analysis_decision_id, decision.strategy_name, decision.strategy_version,
       decision.action, decision.symbol, decision.created_at, decision.failed_at, decision.status_reason,
       COALESCE(
           refusal.check_name,
           'broker: ' || regexp_replace(COALESCE(attempt.error_message, attempt.error_code), '[0-9]+([.,:-][0-9]+)*', '#', 'g'),
           regexp_replace(left(decision.status_reason, 200), '[0-9]+([.,:-][0-9]+)*', '#', 'g')) AS reason,
       attempt.error_code AS code
FROM audit.trade_decisions decision
LEFT JOIN LATERAL (
    SELECT check_name FROM audit.risk_checks made
    WHERE made.trade_decision_id = decision.id AND NOT made.passed ORDER BY made.id DESC LIMIT 1
) AS refusal ON true
LEFT JOIN LATERAL (
    SELECT error_code, error_message FROM audit.trade_executions tried
    WHERE tried.trade_decision_id = decision.id AND tried.error_code IS NOT NULL ORDER BY tried.id DESC LIMIT 1
) AS attempt ON true
WHERE decision.status = 'failed';
COMMENT ON VIEW audit.failed_decisions IS 'Decisions that failed, each with why: the check that refused it, else the broker''s words, else its own, with # for numbers.';
