-- What did we know about a symbol on a given day at 09:00?
-- psql -v symbol=AAPL -v at='2025-01-31 09:00' -f sql/investigations/known_at.sql
-- The time is US Eastern. changed_since: a later run corrected the row; its answer from then is in audit.api_payloads.

SELECT disclosed.available_at AS known_since, disclosed.id, person_name, side, transaction_type, transaction_date,
       disclosure_date, amount_low, amount_high, run.run_id,
       disclosed.updated_at > :'at'::timestamp AT TIME ZONE 'America/New_York' AS changed_since
FROM quiver_trades disclosed LEFT JOIN audit.data_ingestion_runs run ON run.id = disclosed.data_ingestion_run_id
WHERE symbol = :'symbol' AND disclosed.available_at <= :'at'::timestamp AT TIME ZONE 'America/New_York'
ORDER BY disclosed.available_at DESC, disclosed.id DESC;
