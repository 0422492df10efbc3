-- Show me all activity in a symbol between two days.
-- psql -v symbol=AAPL -v from=2025-01-01 -v to=2025-12-31 -f sql/investigations/symbol_activity.sql
-- Days are US Eastern, both counted; times are shown in the session's time zone.

SELECT at, event, what, detail FROM (
    SELECT disclosed.available_at AS at, 'became known' AS event,
           concat_ws(' ', person_name, disclosed.side, 'on', transaction_date) AS what,
           concat('disclosed trade ', disclosed.id, ', run ', run.run_id) AS detail
    FROM quiver_trades disclosed LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
    WHERE symbol = :'symbol' AND disclosed.available_at >= :'from'::timestamp AT TIME ZONE 'America/New_York'
      AND disclosed.available_at < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
    UNION ALL
    SELECT decision.created_at, 'decided', concat_ws(' ', action, side, trim_scale(quantity), 'at', trim_scale(limit_price)),
           concat_ws(', ', strategy_name, status, status_reason, analysis_decision_id)
    FROM audit.trade_decisions decision
    WHERE symbol = :'symbol' AND decision.created_at >= :'from'::timestamp AT TIME ZONE 'America/New_York'
      AND decision.created_at < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
    UNION ALL
    SELECT execution.submitted_at, 'sent', concat_ws(' ', orders.order_type, orders.side, trim_scale(orders.qty)),
           concat_ws(', ', execution.status, 'HTTP ' || execution.http_status_code, execution.error_message,
                     execution.client_order_id)
    FROM audit.trade_decisions decision JOIN audit.trade_executions execution ON execution.trade_decision_id = decision.id
    LEFT JOIN order_execution orders ON orders.id = execution.order_execution_id
    WHERE symbol = :'symbol' AND decision.created_at >= :'from'::timestamp AT TIME ZONE 'America/New_York'
      AND decision.created_at < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
    UNION ALL
    SELECT exit_date, 'trade over', concat_ws(' ', exit_reason, 'P&L', trim_scale(actual_pnl)),
           concat(trade_id, CASE WHEN pnl_is_estimate THEN ', an estimate' END)
    FROM trade_journal
    WHERE symbol = :'symbol' AND exit_date >= :'from'::timestamp AT TIME ZONE 'America/New_York'
      AND exit_date < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
) AS activity
ORDER BY at;
