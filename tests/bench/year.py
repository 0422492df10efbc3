"""A year of books, written by the server itself: what reports are measured and planned on.

Every number follows from a row's number, so that two databases of a size are alike. `AAA` has one of 250 disclosed
trades and of 300 decisions, `BBB` one of 2,500 and of 3,000: so `AAA` has 2,000 trades in a year's database, and
20,000 in one ten times as large, where `BBB` has 2,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from db_layer import TradingDB

FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)
# Day n of 250, spread over the year's weekdays as well as it matters here.
HELPERS = """
CREATE FUNCTION pg_temp.day(n bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
$$ SELECT timestamptz '2025-01-02 14:30+00' + n * interval '34 hours 48 minutes' $$;
CREATE FUNCTION pg_temp.symbol(n bigint, each bigint, symbols bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN n %% each = 0 THEN 'AAA' WHEN n %% (each * 10) = 1 THEN 'BBB'
          ELSE 'S' || lpad((n * 7919 %% symbols)::text, 4, '0') END $$;
CREATE FUNCTION pg_temp.luck(n bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || left(md5(n::text), 6))::bit(24)::integer %% 100 $$;
"""
RUNS = """
INSERT INTO audit.data_ingestion_runs (id, task_name, data_source, status, started_at, completed_at, failed_at,
                                       records_fetched, records_created, error_message, created_at, updated_at)
SELECT n, task, 'quiverquant_' || split_part(task, '_', 1), CASE WHEN failed THEN 'failed' ELSE 'completed' END, at,
       CASE WHEN NOT failed THEN at + interval '1 minute' END, CASE WHEN failed THEN at + interval '1 minute' END,
       1000, 1000, CASE WHEN failed THEN 'the source did not answer' END, at, at
FROM (SELECT n, n %% 50 = 49 AS failed, CASE n %% 2 WHEN 0 THEN 'congress_daily' ELSE 'insider_daily' END AS task,
             pg_temp.day(n * %(days)s / %(runs)s) - interval '3 hours' AS at
      FROM generate_series(0::bigint, %(runs)s - 1) AS n) AS run
"""
TRADES = """
INSERT INTO quiver_trades (id, natural_key, trade_key, lot, source, symbol, asset_type, tradable, person_name,
                           person_id, chamber, party, transaction_type, side, transaction_date, disclosure_date,
                           amount_low, amount_high, available_at, data_ingestion_run_id, created_at, updated_at)
SELECT n, 'key-' || lpad(n::text, 60, '0'), 'key-' || lpad(n::text, 60, '0'), 0, 'quiverquant_congress',
       pg_temp.symbol(n, 250, %(symbols)s), 'stock', true, 'Representative Number ' || n %% 535, 'P' || n %% 535,
       CASE n %% 5 WHEN 0 THEN 'senate' ELSE 'house' END, CASE n %% 2 WHEN 0 THEN 'D' ELSE 'R' END,
       CASE n %% 3 WHEN 0 THEN 'Sale (Full)' ELSE 'Purchase' END, CASE n %% 3 WHEN 0 THEN 'sell' ELSE 'buy' END,
       (at - interval '30 days')::date, at::date, 1001, 15000, at, run, at, at
FROM (SELECT n, n * %(runs)s / (%(trades)s + 1) AS run, pg_temp.day(n * %(days)s / (%(trades)s + 1)) AS at
      FROM generate_series(1::bigint, %(trades)s) AS n) AS disclosed
"""
RECORDS = """
INSERT INTO audit.data_ingestion_run_records
SELECT data_ingestion_run_id, 'quiver_trades', id, 'created', created_at FROM quiver_trades ORDER BY id
"""
PAYLOADS = """
INSERT INTO audit.api_payloads (id, type, payload, source, captured_at, sha256, byte_length)
SELECT n, CASE n %% 2 WHEN 1 THEN 'ApiRequest' ELSE 'ApiResponse' END,
       json_build_object('method', 'POST', 'endpoint', '/v2/orders', 'body', repeat(md5(n::text), 20)), 'alpaca',
       pg_temp.day(n * %(days)s / (%(payloads)s + 1)), repeat(md5(n::text), 2), 800
FROM generate_series(1::bigint, %(payloads)s) AS n
"""
# Ten calls a run.
CALLS = """
INSERT INTO audit.api_call_logs (data_ingestion_run_id, api_request_payload_id, api_response_payload_id, endpoint,
                                 http_status_code, duration_ms, created_at)
SELECT id, 1 + (id * 20 + n * 2) %% %(payloads)s, 2 + (id * 20 + n * 2) %% (%(payloads)s - 1),
       'GET /beta/live/congresstrading', 200, 150, started_at
FROM audit.data_ingestion_runs, generate_series(0, 9) AS n ORDER BY id, n
"""
# Of a hundred: 80 executed, 12 failed, 6 cancelled, 2 changes of orders, executed as well; the last ones are pending.
DECISIONS = """
INSERT INTO audit.trade_decisions (id, strategy_name, strategy_version, action, symbol, side, quantity, order_type,
                                   limit_price, analysis_decision_id, primary_quiver_trade_id,
                                   primary_ingestion_run_id, decision_rationale, source_bytes, source_bytes_sha256,
                                   status, status_reason, executed_at, failed_at, cancelled_at, created_at, updated_at)
SELECT n, CASE n %% 4 WHEN 0 THEN 'congressional' ELSE 'n8n_analysis' END, (1 + n * 2 / %(decisions)s)::text,
       CASE WHEN n %% 100 >= 98 THEN 'cancel' ELSE 'new_trade' END, pg_temp.symbol(n, 300, %(symbols)s), 'buy', 10,
       CASE n %% 10 WHEN 0 THEN 'market' ELSE 'limit' END, CASE n %% 10 WHEN 0 THEN NULL ELSE 100 END, 'A' || n,
       CASE n %% 4 WHEN 0 THEN 1 + n %% %(trades)s END, n * %(runs)s / (%(decisions)s + 1),
       jsonb_build_object('signal_strength', 0.5 + n %% 50 / 100.0, 'confidence_score', 0.7, 'trigger_event',
                          jsonb_build_object('type', 'analysis_decision'),
                          'source_data', jsonb_build_object('row_key', n), 'market_context', '{}'::jsonb,
                          'portfolio_context', jsonb_build_object('words', md5(n::text)),
                          'data_lineage', '{"ingestion_runs": []}'::jsonb),
       repeat(md5(n::text), 16), repeat(md5(n::text), 2), status,
       CASE status WHEN 'failed' THEN 'order value ' || n || ' dollars is over the limit of 20000' END,
       CASE status WHEN 'executed' THEN at + interval '5 minutes' END,
       CASE status WHEN 'failed' THEN at + interval '1 minute' END,
       CASE status WHEN 'cancelled' THEN at + interval '7 hours' END, at, at
FROM (SELECT n, pg_temp.day(n * %(days)s / (%(decisions)s + 1)) + n %% 300 * interval '1 minute' AS at,
             CASE WHEN n > %(decisions)s - 20 THEN 'pending' WHEN luck < 12 THEN 'failed'
                  WHEN luck < 18 THEN 'cancelled' ELSE 'executed' END AS status
      FROM generate_series(1::bigint, %(decisions)s) AS n, pg_temp.luck(n) AS luck) AS decided
"""
# 22 checks, all passed; the last one of those that were not sent for a limit of ours was not.
CHECKS = """
INSERT INTO audit.risk_checks (trade_decision_id, check_name, limit_value, observed_value, passed, checked_at)
SELECT decision.id, CASE WHEN n = 11 THEN 'reference_price'
                         WHEN n = 22 THEN (ARRAY['max_order_notional', 'price_collar', 'duplicate_order'])[1 + id %% 3]
                         ELSE 'check_' || n END,
       '20000', CASE n WHEN 11 THEN '99.5, 12 s old' ELSE '1000' END,
       NOT (n = 22 AND status = 'failed' AND id %% 2 = 0), created_at
FROM audit.trade_decisions decision, generate_series(1, 22) AS n
ORDER BY decision.id, n
"""
# Won 2 of 3; of a hundred closed trades one is an estimate.
JOURNAL = """
INSERT INTO trade_journal (id, trade_id, symbol, side, trade_style, pattern, status, initial_analysis_id,
                           trade_decision_id, planned_entry, planned_stop_loss, planned_take_profit, planned_qty,
                           actual_entry, actual_qty, exit_date, exit_price, actual_pnl, exit_reason, pnl_is_estimate,
                           created_at, updated_at)
SELECT id, symbol || '-' || id, symbol, 'buy', 'SWING', 'PATTERN_1',
       CASE WHEN filled THEN 'CLOSED' ELSE 'CANCELLED' END, 'A' || id, id, limit_price, 90, 120, 10,
       CASE WHEN filled THEN 100.2 END, CASE WHEN filled THEN 10 END,
       LEAST(created_at + interval '5 days', '2025-12-31 20:00+00'),
       CASE WHEN filled THEN CASE id %% 3 WHEN 0 THEN 95 ELSE 104 END END,
       CASE WHEN filled THEN CASE id %% 3 WHEN 0 THEN -52 ELSE 38 END END,
       CASE WHEN NOT filled THEN 'CANCELLED' WHEN id %% 3 = 0 THEN 'STOPPED_OUT' ELSE 'TARGET_HIT' END,
       filled AND id %% 100 = 50, created_at, created_at
FROM (SELECT *, status = 'executed' AS filled FROM audit.trade_decisions
      WHERE status IN ('executed', 'cancelled') AND action = 'new_trade') AS decision
ORDER BY id
"""
# An entry each, and stop and target for what was filled.
ORDERS = """
INSERT INTO order_execution (id, trade_journal_id, analysis_decision_id, trade_decision_id, alpaca_order_id,
                             client_order_id, order_type, side, order_status, broker_status, time_in_force, qty,
                             limit_price, filled_qty, filled_avg_price, filled_at, created_at, updated_at)
SELECT id * 3 + part, id, initial_analysis_id, id, 'broker-' || id || '-' || part, 'tm-' || id || '-' || part,
       (ARRAY['ENTRY', 'TAKE_PROFIT', 'STOP_LOSS'])[1 + part], CASE part WHEN 0 THEN 'buy' ELSE 'sell' END,
       CASE WHEN done THEN 'filled' ELSE 'cancelled' END, 'filled', 'gtc', 10, planned_entry,
       CASE WHEN done THEN 10 ELSE 0 END,
       CASE WHEN done THEN CASE part WHEN 0 THEN actual_entry ELSE exit_price END END,
       CASE WHEN done THEN created_at + CASE part WHEN 0 THEN id %% 600 * interval '1 second' ELSE '5 days' END END,
       created_at, created_at
FROM (SELECT journal.*, part, status = 'CLOSED' AND part IN (0, CASE id %% 3 WHEN 0 THEN 2 ELSE 1 END) AS done
      FROM trade_journal journal, generate_series(0, 2) AS part
      WHERE part = 0 OR status = 'CLOSED') AS wanted
ORDER BY id, part
"""
EXECUTIONS = """
INSERT INTO audit.trade_executions (trade_decision_id, order_execution_id, attempt_number, status,
                                    api_request_payload_id, api_response_payload_id, client_order_id, alpaca_order_id,
                                    http_status_code, filled_quantity, filled_avg_price, submitted_at, filled_at,
                                    created_at, updated_at)
SELECT trade_decision_id, id, 1, CASE order_status WHEN 'filled' THEN 'filled' ELSE 'cancelled' END,
       1 + id * 2 %% %(payloads)s, 2 + id * 2 %% %(payloads)s - id * 2 %% %(payloads)s / (%(payloads)s - 1) * 2,
       client_order_id, alpaca_order_id, 200, filled_qty, filled_avg_price, created_at, filled_at, created_at,
       created_at
FROM order_execution ORDER BY id
"""
# The others that failed were refused by the broker.
REFUSALS = """
INSERT INTO audit.trade_executions (trade_decision_id, attempt_number, status, client_order_id, http_status_code,
                                    error_code, error_message, submitted_at, rejected_at, created_at, updated_at)
SELECT id, 1, 'rejected', 'tm-refused-' || id, 403, '40310000', 'insufficient buying power', created_at, created_at,
       created_at, created_at
FROM audit.trade_decisions WHERE status = 'failed' AND id %% 2 = 1 ORDER BY id
"""
FILLS = """
INSERT INTO order_fill (order_execution_id, execution_id, side, qty, price, filled_at)
SELECT id, 'fill-' || id, side, filled_qty, filled_avg_price, filled_at FROM order_execution WHERE filled_qty > 0
ORDER BY id
"""
# An index is made in a fraction of the time in which it is kept up.
INDEXES = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace IN ('public'::regnamespace, 'audit'::regnamespace) AND NOT indisunique
"""
# Ids were given by hand.
SEQUENCES = """
SELECT setval(pg_get_serial_sequence(name, 'id'), 1000000000)
FROM unnest(ARRAY['quiver_trades', 'trade_journal', 'order_execution', 'audit.data_ingestion_runs',
                  'audit.api_payloads', 'audit.trade_decisions']) AS name
"""
STEPS = (
    RUNS, TRADES, RECORDS, PAYLOADS, CALLS, DECISIONS, CHECKS, JOURNAL, ORDERS, EXECUTIONS, REFUSALS, FILLS, SEQUENCES,
)


@dataclass(frozen=True)
class Size:
    """How many rows the generated books have, on how many days."""

    days: int = 250
    trades: int = 500_000
    decisions: int = 20_000
    symbols: int = 300
    payloads: int = 60_000

    def times(self, factor: int) -> Size:
        """Return the same days with so many times the rows."""
        return Size(self.days, self.trades * factor, self.decisions * factor, self.symbols * factor,
                    self.payloads * factor)


YEAR = Size()


def write_year(db: TradingDB, size: Size = YEAR) -> None:
    """Fill an empty database with the books of a year, and let the server look at them. Raises DatabaseError."""
    numbers = vars(size) | {"runs": size.days * 6}
    db.execute_update("SET statement_timeout = 0; SET maintenance_work_mem = '256MB'")
    with db.transaction():
        # Nobody looks up what a foreign key points to: it is there by the numbers.
        db.execute_update("SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = off")
        indexes = db.execute_query(INDEXES)
        for index in indexes:
            db.execute_update(f"DROP INDEX {index['name']}")
        db.execute_update(HELPERS, numbers)
        for step in STEPS:
            db.execute_update(step, numbers)
        for index in indexes:
            db.execute_update(index["definition"])
    db.execute_update("VACUUM (FREEZE, ANALYZE)")
    db.execute_update("RESET statement_timeout; RESET maintenance_work_mem")
