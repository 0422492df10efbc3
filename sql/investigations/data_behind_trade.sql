-- What data led to this trade?
-- psql -v trade=NVDA-20250115-1a2b3c -f sql/investigations/data_behind_trade.sql
-- trade is trade_journal.trade_id, or the Analysis_Id that decided it.

WITH decision AS (
    SELECT decision.* FROM audit.trade_decisions decision
    LEFT JOIN trade_journal journal ON journal.trade_decision_id = decision.id
    WHERE journal.trade_id = :'trade' OR decision.analysis_decision_id = :'trade'
)
SELECT 'disclosed trade' AS kind, disclosed.available_at AS known_since, run.run_id::text AS run,
       concat_ws(' ', disclosed.id, person_name, disclosed.side, disclosed.symbol, transaction_date) AS what,
       disclosed.available_at <= decision.created_at AS known_before_decision
FROM decision JOIN quiver_trades disclosed ON disclosed.id = decision.primary_quiver_trade_id
LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
UNION ALL
SELECT 'run', (lineage ->> 'completed_at')::timestamptz, lineage ->> 'run_id',
       concat_ws(' ', lineage ->> 'task_name', lineage ->> 'records_fetched', 'records'),
       (lineage ->> 'completed_at')::timestamptz <= decision.created_at
FROM decision CROSS JOIN jsonb_array_elements(decision_rationale #> '{data_lineage,ingestion_runs}') AS lineage
UNION ALL
SELECT 'rationale', created_at, NULL, decision_rationale::text, NULL FROM decision
ORDER BY kind, known_since;
