-- What did each version of a strategy bring, and how much did its entries cost above the decided price?
-- psql -v from=2025-01-01 -v to=2025-12-31 -f sql/investigations/strategy_results.sql
-- Days are US Eastern, both counted, by when the decision was taken up. Market orders have no decided price here.

SELECT strategy_name, strategy_version, count(*) AS decisions,
       count(*) FILTER (WHERE decision.status = 'executed') AS executed,
       count(*) FILTER (WHERE decision.status = 'failed') AS failed,
       count(*) FILTER (WHERE journal.status = 'CLOSED') AS closed,
       count(*) FILTER (WHERE journal.status = 'CLOSED' AND pnl_is_estimate) AS estimates,
       sum(actual_pnl) FILTER (WHERE journal.status = 'CLOSED') AS pnl,
       round(100.0 * count(*) FILTER (WHERE journal.status = 'CLOSED' AND actual_pnl > 0)
             / NULLIF(count(*) FILTER (WHERE journal.status = 'CLOSED'), 0), 1) AS won_percent,
       round(sum(CASE journal.side WHEN 'buy' THEN 1 ELSE -1 END * (actual_entry - planned_entry / split_ratio)
                 * actual_qty), 2) AS slippage
FROM audit.trade_decisions decision LEFT JOIN trade_journal journal ON journal.trade_decision_id = decision.id
WHERE decision.created_at >= :'from'::timestamp AT TIME ZONE 'America/New_York'
  AND decision.created_at < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
GROUP BY strategy_name, strategy_version
ORDER BY strategy_name, strategy_version;
