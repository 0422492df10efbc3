-- What each role of sql/roles.sql may do with our tables; nothing where those roles do not exist.
-- Run with the tables, so that a new table or column never waits for its rights.

DO $$
BEGIN
    IF to_regrole('trading_app') IS NULL OR to_regclass('trade_journal') IS NULL THEN
        RETURN;
    END IF;

    GRANT SELECT ON
        trade_journal, order_execution, external_order, order_fill, position_adjustment, position_tracking,
        quiver_trades, politician_profiles, committees, committee_memberships, blocked_assets,
        audit.data_ingestion_runs, audit.data_ingestion_run_records, audit.quarantined_records,
        audit.api_payloads, audit.api_call_logs,
        audit.trade_decisions, audit.trade_executions, audit.risk_checks, audit.job_runs, audit.alerts,
        audit.alert_deliveries, audit.trading_control, audit.limit_raises, audit.audit_log, audit.failed_decisions,
        audit.trade_decision_disclosures,
        audit.audit_head, audit.audit_pending, audit.legal_holds
    TO trading_app, trading_reader, trading_purge;

    GRANT INSERT ON
        trade_journal, order_execution, external_order, order_fill, position_adjustment, position_tracking,
        quiver_trades, politician_profiles, committees, committee_memberships, blocked_assets,
        audit.data_ingestion_runs, audit.data_ingestion_run_records, audit.quarantined_records,
        audit.api_payloads, audit.api_call_logs,
        audit.trade_decisions, audit.trade_executions, audit.risk_checks, audit.job_runs, audit.alerts,
        audit.alert_deliveries, audit.trading_control, audit.limit_raises, audit.trade_decision_disclosures
    TO trading_app;

    -- What a trade and an order were meant to be is written once, but for a split before the entry is filled; what becomes
    -- of them is brought up to date.
    GRANT UPDATE (planned_qty, planned_entry, planned_stop_loss, planned_take_profit, status, actual_entry, actual_qty,
                  current_stop_loss, days_open, last_review_date, exit_date, exit_price, actual_pnl, exit_reason,
                  pnl_is_estimate, pnl_before_exit_day, split_ratio, updated_at)
        ON trade_journal TO trading_app;
    GRANT UPDATE (alpaca_order_id, client_order_id, order_status, broker_status, qty, limit_price, stop_price, filled_qty,
                  filled_avg_price, filled_at, parent_order_id, missed_lookups, updated_at)
        ON order_execution TO trading_app;
    GRANT UPDATE (broker_status, qty, filled_qty, filled_avg_price, updated_at) ON external_order TO trading_app;
    GRANT UPDATE, DELETE ON position_tracking TO trading_app;
    GRANT DELETE ON position_adjustment TO trading_app;
    GRANT UPDATE ON quiver_trades, politician_profiles, committees, committee_memberships, blocked_assets TO trading_app;
    GRANT DELETE ON blocked_assets TO trading_app;

    GRANT UPDATE (status, status_reason, executed_at, failed_at, cancelled_at, updated_at)
        ON audit.trade_decisions TO trading_app;
    GRANT UPDATE (status, api_response_payload_id, client_order_id, alpaca_order_id, http_status_code, error_code,
                  error_message, error_details, filled_quantity, filled_avg_price, commission, filled_at, rejected_at,
                  updated_at)
        ON audit.trade_executions TO trading_app;
    GRANT UPDATE (status, completed_at, failed_at, data_date_start, data_date_end, records_fetched, records_created,
                  records_updated, records_skipped, error_message, error_details, updated_at)
        ON audit.data_ingestion_runs TO trading_app;
    GRANT UPDATE (started_at, ended_at, status, reason) ON audit.job_runs TO trading_app;
    GRANT UPDATE (level, message, occurrences, last_seen_at, acknowledged_at, resolved_at) ON audit.alerts TO trading_app;
    GRANT UPDATE (level, message, over, state, sends, attempted_at, told_at) ON audit.alert_deliveries TO trading_app;

    GRANT UPDATE (payload, purged_at) ON audit.api_payloads TO trading_purge;
    GRANT INSERT, UPDATE (level, message, occurrences, last_seen_at, acknowledged_at, resolved_at) ON audit.alerts
        TO trading_purge;
END
$$;
