-- Why did this trade fail?
-- psql -v trade=A17 -f sql/investigations/why_trade_failed.sql
-- trade is trade_journal.trade_id, or the Analysis_Id that decided it.

WITH decision AS (
    SELECT decision.*, journal.trade_id, journal.exit_reason FROM audit.trade_decisions decision
    LEFT JOIN trade_journal journal ON journal.trade_decision_id = decision.id
    WHERE journal.trade_id = :'trade' OR decision.analysis_decision_id = :'trade'
)
SELECT created_at AS at, 'decision ' || status AS event, status_reason AS what, exit_reason AS detail FROM decision
UNION ALL
SELECT checked_at, 'check failed', check_name, concat('observed ', observed_value, ', limit ', limit_value)
FROM decision JOIN audit.risk_checks made ON made.trade_decision_id = decision.id WHERE NOT passed
UNION ALL
SELECT submitted_at, 'attempt ' || execution.status, concat_ws(' ', 'HTTP', http_status_code, error_code, error_message),
       answer.payload::text
FROM decision JOIN audit.trade_executions execution ON execution.trade_decision_id = decision.id
LEFT JOIN audit.api_payloads answer ON answer.id = execution.api_response_payload_id
ORDER BY at;
