-- Which ingestion runs failed, or fetched nothing, in the last days before a day?
-- psql -v to=2025-12-31 -v days=30 -f sql/investigations/runs_in_trouble.sql

SELECT started_at, task_name, data_source, status, records_fetched, error_message, run_id
FROM audit.data_ingestion_runs
WHERE (status = 'failed' OR status = 'completed' AND records_fetched = 0)
  AND started_at >= (:'to'::date + 1 - :'days'::integer)::timestamp AT TIME ZONE 'America/New_York'
  AND started_at < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
ORDER BY started_at DESC;
