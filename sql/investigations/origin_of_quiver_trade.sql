-- Which run created this quiver trade, by which calls, and which runs met it again?
-- psql -v id=12345 -f sql/investigations/origin_of_quiver_trade.sql

SELECT run.started_at AS at, done.operation, run.task_name, run.run_id, run.status, call.endpoint, call.http_status_code,
       call.api_request_payload_id AS request, call.api_response_payload_id AS answer
FROM audit.data_ingestion_run_records done
JOIN audit.data_ingestion_runs run ON run.id = done.data_ingestion_run_id
LEFT JOIN audit.api_call_logs call ON call.data_ingestion_run_id = run.id AND done.operation = 'created'
WHERE done.record_type = 'quiver_trades' AND done.record_id = :'id'::bigint
ORDER BY run.started_at, call.id;
