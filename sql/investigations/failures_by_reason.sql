-- Why do decisions fail, how often, and since when?
-- psql -v from=2025-01-01 -v to=2025-12-31 -f sql/investigations/failures_by_reason.sql
-- Days are US Eastern, both counted, by when the decision was taken up.

SELECT reason, code, count(*) AS failures, min(failed_at) AS first_seen, max(failed_at) AS last_seen,
       (array_agg(COALESCE(analysis_decision_id, decision_id::text) ORDER BY failed_at DESC))[1:3] AS examples
FROM audit.failed_decisions
WHERE created_at >= :'from'::timestamp AT TIME ZONE 'America/New_York'
  AND created_at < (:'to'::date + 1)::timestamp AT TIME ZONE 'America/New_York'
GROUP BY reason, code
ORDER BY failures DESC, last_seen DESC;
